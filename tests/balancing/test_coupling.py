"""Expert-router coupling against its equation, pair by pair.

Each docstring names mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from s15erav3.balancing import ExpertRouterCoupling, coupling
from s15erav3.errors import UserError
from s15erav3.model import RoutedExperts, Router
from tests.balancing.parts import config, micro_batch
from tests.tiny import result, train


def layers(count: int = 2, experts: int = 3) -> tuple[list[Router], list[RoutedExperts]]:
    """Random ones."""
    torch.manual_seed(0)
    cfg = config(experts, 1)
    pairs = [(Router(cfg), RoutedExperts(cfg)) for _ in range(count)]
    for pair in pairs:
        for module in pair:
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter)
    return [router for router, _ in pairs], [its for _, its in pairs]


@pytest.mark.parametrize("margin", [1.0, 0.4])
def test_the_loss_of_rows_without_noise(margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with the up-projection, with M transposed in one term only, without either term, with the diagonal,
    with 1 / E for 1 / E^2, and with the last layer alone."""
    monkeypatch.setattr(coupling, "reach", lambda rows: torch.zeros(len(rows)))
    routers, experts = layers()
    balancer = ExpertRouterCoupling(alpha=0.5, margin=margin)
    balancer.attach_experts(experts)
    balancer.attach(routers)
    found = balancer.loss(micro_batch())
    wanted = torch.zeros(())
    for router, its in zip(routers, experts, strict=True):
        gate = its.gate_up_proj[:, :8]
        m = [[F.linear(router.weight[i], gate[j]).norm() for j in range(3)] for i in range(3)]
        for i in range(3):
            for j in range(3):
                if i != j:
                    own = margin * m[i][i]
                    wanted = wanted + 0.5 / 9 * ((m[i][j] - own).relu() + (m[j][i] - own).relu())
    torch.testing.assert_close(found, wanted)
    parameters = [router.weight for router in routers] + [its.gate_up_proj for its in experts]
    for mine, its in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(mine, its)


def test_noise_leaves_a_row_closest_to_itself() -> None:
    """Seen to fail with twice the reach, with the farthest row for the nearest, and with noise of its own mean."""
    rows = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    reach = coupling.reach(rows)
    for i in range(6):
        others = torch.stack([(rows[i] - rows[j]).norm() for j in range(6) if j != i])
        assert reach[i].item() == pytest.approx(others.min().item() / 2 / rows[i].norm().item())
        for sign in (1, -1):
            moved = rows[i] * (1 + sign * 0.999 * reach[i])
            assert (rows - moved).norm(dim=1).argmin() == i
    routers, experts = layers(1, 6)
    balancer = ExpertRouterCoupling()
    balancer.attach_experts(experts)
    balancer.attach(routers)
    values = torch.stack([balancer.loss(micro_batch()).detach() for _ in range(20)])
    assert values.std() > 0 and len(set(values.tolist())) == 20


def test_a_run_learns_it_and_counts_it(tmp_path: Path) -> None:
    """Beside a bias rule, by its own file; the loss of the run grows by it. Seen to fail without ``attach_experts``."""
    run_dir = tmp_path / "run"
    settings = ["experts=e8", "balancing=loss_free", "balancing/loss=erc", "trainer.max_steps=2"]
    assert train(*settings, "balancing.loss.erc.margin=0.5", run_dir=run_dir) == 0
    assert result(run_dir)["status"] == "completed"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2, found 1"):
        ExpertRouterCoupling().attach([Router(config(1, 1))])
    with pytest.raises(UserError, match=r"balancing\.margin=2"):
        ExpertRouterCoupling(margin=2)
