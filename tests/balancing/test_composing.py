"""Any strategy with further losses: ``balancing=loss_free balancing/loss=[aux_sequence,simbal]``.

Docstrings name mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s15erav3.balancing import AddOns, Balancer, Combined
from s15erav3.cli.trust import check_targets
from s15erav3.errors import UserError
from s15erav3.session.build import build_balancer, plain
from tests.balancing.parts import micro_batch, skewed
from tests.cli.test_numbers import composed
from tests.tiny import train

STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {"_target_": "Unbalanced"},
    "loss_free": {"_target_": "LossFree", "rate": 0.1},
    "smebu": {"_target_": "SMEBU", "rate": 0.1},
    "quantile": {"_target_": "Quantile", "ema": 0.5},
    "bip": {"_target_": "BIP", "rounds": 2},
    "original": {"_target_": "OriginalRule", "rate": 1.0},
    "simbal": {"_target_": "SimBal", "alpha": 0.3},
}
LOSSES: dict[str, dict[str, Any]] = {
    "micro": {"_target_": "AuxiliaryLoss", "alpha": 0.3},
    "sequence": {"_target_": "AuxiliaryLoss", "alpha": 0.2, "scope": "sequence", "counts": "unbiased"},
    "global": {"_target_": "AuxiliaryLoss", "alpha": 0.1, "scope": "global"},
    "simbal": {"_target_": "SimBal", "alpha": 0.1},
}


def made(settings: dict[str, Any], **more: Any) -> Combined:
    return build_balancer({**settings, "_target_": f"s15erav3.balancing.{settings['_target_']}", **more})


def steps(balancer: Balancer) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Losses of two steps of two micro-batches, and the two bias updates, which the router follows."""
    router, x = skewed(6, 2, seed=0)
    balancer.attach([router])
    losses, updates = [], []
    for step in range(2):
        loads = torch.zeros(1, 6, dtype=torch.int64)
        for part in x.chunk(4)[2 * step : 2 * step + 2]:
            batch = micro_batch(router(part), sequences=4)
            loss = balancer.loss(batch)
            losses.append(torch.tensor(0.0) if loss is None else loss.detach())
            balancer.observe(batch)
            loads += batch.routings[0].load
        updates.append(balancer.bias_update(loads, 0.0))
        router.bias += updates[-1][0]
    return losses, updates


@settings(max_examples=30)
@given(st.sampled_from(sorted(STRATEGIES)), st.lists(st.sampled_from(sorted(LOSSES)), max_size=3, unique=True))
def test_a_composition_is_the_sum_of_its_parts(strategy: str, names: list[str]) -> None:
    """Losses are summed and the biases move as without them, over steps and micro-batches.

    Seen to fail with a loss that is left out, a loss that is not attached (simbal), and with losses whose step does not
    end (global: loads are kept).
    """
    parts = {name: {**LOSSES[name], "_target_": f"s15erav3.balancing.{LOSSES[name]['_target_']}"} for name in names}
    losses, updates = steps(made(STRATEGIES[strategy], loss=parts))
    alone, expected = steps(made(STRATEGIES[strategy]))
    for name in names:
        added = steps(_Under(made(STRATEGIES[strategy]), made(LOSSES[name])))[0]
        alone = [a + b for a, b in zip(alone, added, strict=True)]
    torch.testing.assert_close(losses, alone)
    assert all(torch.equal(a, b) for a, b in zip(updates, expected, strict=True))


class _Under(Balancer):
    """The loss of one balancer while another moves the biases."""

    def __init__(self, mover: Balancer, loss: Balancer) -> None:
        super().__init__()
        self.mover, self.its_loss = mover, loss
        self.attach = lambda routers: (mover.attach(routers), loss.attach(routers))  # type: ignore[assignment,method-assign]
        self.observe, self.loss = mover.observe, loss.loss  # type: ignore[method-assign]

    def bias_update(self, loads: torch.Tensor, progress: float) -> torch.Tensor:
        self.its_loss.bias_update(loads, progress)
        return self.mover.bias_update(loads, progress)


@pytest.mark.parametrize("name", ["loss_free", "quantile", "bip", "smebu", "original"])
def test_two_that_select_experts_are_refused(name: str) -> None:
    """In one sentence, which names both. Seen to fail without the check."""
    part = {**STRATEGIES[name], "_target_": f"s15erav3.balancing.{STRATEGIES[name]['_target_']}"}
    with pytest.raises(UserError, match=r"balancing\.loss\.mine is \w+, which selects experts.*SMEBU; make it"):
        made(STRATEGIES["smebu"], loss={"mine": part})


def test_what_selects_is_known_of_own_classes() -> None:
    """A class that moves the bias selects; a loss does not, nor does one that says so."""

    class Mine(Balancer):
        def bias_update(self, loads: torch.Tensor, progress: float) -> torch.Tensor:
            return loads.float()

    class Hook(Mine):
        selects = False

    assert Mine.selects and not Hook.selects and not AddOns.selects and not Balancer.selects


def test_on_the_command_line() -> None:
    """One loss or a list; a choice with a loss of its own (dsv3) takes the one that is typed instead."""
    cfg = composed("balancing=quantile", "balancing/loss=[aux_sequence,simbal]", "balancing.loss.simbal.alpha=0.3")
    balancer = build_balancer(cfg.balancing)
    assert [type(part).__name__ for part in balancer.parts()] == ["Quantile", "AuxiliaryLoss", "SimBal", "AddOns"]
    assert balancer.losses[1].alpha == 0.3
    check_targets({"balancing": plain(cfg.balancing)}, "a checkpoint")
    own = build_balancer(composed("balancing=dsv3", "balancing/loss=aux").balancing)
    assert [part.scope for part in own.losses] == ["micro"]


def test_a_loss_from_a_file_is_checked() -> None:
    """Targets below ``balancing.loss`` are as little trusted as others. Seen to fail with every name let through."""
    mine = {"_target_": "s15erav3.balancing.LossFree", "rate": 1.0, "loss": {"a": {"_target_": "os.system"}}}
    with pytest.raises(UserError, match=r"balancing\.loss\.a"):
        check_targets({"balancing": mine}, "a checkpoint")


@pytest.mark.parametrize(
    ("setting", "said"),
    [("balancing.loss.aux.alpha=0", "balancing.loss.aux.alpha=0"), ("balancing.loss.aux.scope=all", "scope=all")],
)
def test_bad_values_are_refused_by_key(setting: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("balancing=loss_free", "balancing/loss=aux", setting) == 2
    assert said in capsys.readouterr().err
