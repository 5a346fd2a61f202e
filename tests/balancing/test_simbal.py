"""SimBal against the entries of known matrices.

Each docstring names mutations of the rule that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

import pytest
import torch

from s15erav3.balancing import SimBal
from s15erav3.errors import UserError
from s15erav3.model import Router
from tests.balancing.parts import config, micro_batch, reader


def attached(*routers: Router, alpha: float = 0.1) -> SimBal:
    balancer = SimBal(alpha)
    balancer.attach(routers)
    return balancer


def test_orthonormal_rows_cost_nothing() -> None:
    """Seen to fail without the - I, and with R^T R (16 x 16, of rank 3) for R R^T."""
    assert attached(reader(3, 1)).loss(micro_batch()).item() == 0


def test_a_known_matrix_by_hand() -> None:
    """Seen to fail with squares for absolute values, a mean over the entries, alpha left out, and the last layer alone.

    Rows (2, 0), (1, -1): R R^T - I = [[3, 2], [2, 1]], whose entries add up to 8.
    """
    routers = [reader(2, 1), reader(2, 1)]
    with torch.no_grad():
        routers[0].weight.zero_()
        routers[0].weight[:, :2] = torch.tensor([[2.0, 0.0], [1.0, -1.0]])
        routers[1].weight.mul_(2)  # 4 - 1 twice on the diagonal
    loss = attached(*routers, alpha=0.25).loss(micro_batch())
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert loss.item() == pytest.approx(0.25 * (8 + 6))


def test_its_gradient_is_that_of_the_definition() -> None:
    """Seen to fail with the matrices detached. d/dR sum |R R^T - I| = 2 sign(R R^T - I) R."""
    router = Router(config(4, 2))
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(0))
    attached(router, alpha=0.3).loss(micro_batch()).backward()
    rows = router.weight.detach().double()
    expected = 0.3 * 2 * (rows @ rows.T - torch.eye(4)).sign() @ rows
    assert router.weight.grad is not None
    torch.testing.assert_close(router.weight.grad.double(), expected, rtol=1e-5, atol=1e-6)


def test_it_stays_fp32_under_autocast() -> None:
    """bf16 has 8 bits: near orthonormal rows the loss is noise. Seen to fail without the disabled autocast."""
    router = reader(4, 1)
    with torch.no_grad():
        router.weight.mul_(1.001)
    balancer = attached(router, alpha=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = balancer.loss(micro_batch())
    assert loss.item() == pytest.approx(4 * (1.001**2 - 1), rel=1e-3)


def test_it_never_moves_the_bias_and_keeps_no_copy_of_the_routers() -> None:
    """Routers that became submodules would be saved twice. Seen to fail with an ``nn.ModuleList``."""
    balancer = attached(reader(2, 1))
    assert (balancer.bias_update(torch.tensor([[9, 1]]), 0.0) == 0).all()
    assert not list(balancer.state_dict())


def test_bad_values_are_refused_by_key_and_value() -> None:
    """Seen to fail without the check."""
    with pytest.raises(UserError, match=r"balancing\.alpha=0\.0"):
        SimBal(0.0)
