"""Changes of bias against numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from s15erav3.balancing import Balancer, LossFree, OriginalRule, Unbalanced
from s15erav3.balancing.base import update_biases
from s15erav3.balancing.diagnostics import max_violation
from s15erav3.errors import UserError
from s15erav3.model import Router
from tests.balancing.parts import config, micro_batch, skewed

LOADS = torch.tensor([[10, 2, 4, 4], [0, 0, 0, 20], [7, 1, 5, 3]])  # means 5, 5, 4


def test_loss_free_moves_by_the_sign_of_the_distance_from_the_mean() -> None:
    """Catches a turned sign (collapse instead of balance) and a mean over layers instead of experts."""
    change = LossFree(0.01, centred=False).bias_update(LOADS, 0.0)
    expected = 0.01 * torch.tensor([[-1.0, 1, 1, 1], [1, 1, 1, -1], [-1, 1, -1, 1]])
    assert change.dtype == torch.float32
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-9)


def test_loss_free_is_centred_per_layer() -> None:
    """Uncentred, all biases drift together until fp32 cannot add the next step."""
    change = LossFree(0.01).bias_update(LOADS, 0.0)
    expected = 0.01 * torch.tensor([[-1.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, -1.5], [-1, 1, -1, 1]])
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(change.sum(dim=-1), torch.zeros(3), rtol=0, atol=1e-8)


@pytest.mark.parametrize("centred", [True, False])
def test_an_expert_at_the_mean_stays(centred: bool) -> None:
    """Catches a mean in floating point that misses an equal load by one bit, and sign(0) = 1."""
    balancer = LossFree(0.5, centred=centred)
    for experts in (3, 7, 8, 64):
        for load in (1, 3, 10**9 + 7):
            assert (balancer.bias_update(torch.full((2, experts), load), 0.0) == 0).all()
    change = balancer.bias_update(torch.tensor([[6, 5, 4]]), 0.0)
    torch.testing.assert_close(change, torch.tensor([[-0.5, 0.0, 0.5]]))


def test_the_size_of_an_imbalance_does_not_matter() -> None:
    """The rule is one of signs: a proportional one needs another rate."""
    rule = LossFree(0.01)
    slight, severe = torch.tensor([[101, 99, 99, 101]]), torch.tensor([[200, 0, 0, 200]])
    assert torch.equal(rule.bias_update(slight, 0.0), rule.bias_update(severe, 0.0))


@pytest.mark.parametrize(
    ("settings", "progress", "expected"),
    [
        ({}, 0.0, 0.2),
        ({}, 1.0, 0.2),
        ({"schedule": "cosine"}, 0.0, 0.2),
        ({"schedule": "cosine"}, 1 / 3, 0.15),
        ({"schedule": "cosine"}, 0.5, 0.1),
        ({"schedule": "cosine"}, 1.0, 0.0),
        ({"schedule": "cosine"}, 1.2, 0.0),
        ({"schedule": "freeze", "freeze_at": 0.8}, 0.79, 0.2),
        ({"schedule": "freeze", "freeze_at": 0.8}, 0.8, 0.0),
        ({"schedule": "freeze", "freeze_at": 0.8}, 1.0, 0.0),
        ({"schedule": "freeze"}, 0.89, 0.2),
        ({"schedule": "freeze"}, 0.9, 0.0),
        ({"schedule": "freeze", "freeze_at": 0.0}, 0.0, 0.0),
        ({"schedule": "constant", "freeze_at": 0.1}, 0.9, 0.2),
    ],
)
def test_rate_over_training(settings: dict[str, Any], progress: float, expected: float) -> None:
    """Catches a rate that never falls, or one that ``freeze_at`` freezes under another schedule."""
    balancer = LossFree(0.2, **settings)
    assert balancer.rate_at(progress) == pytest.approx(expected, abs=1e-9)
    change = balancer.bias_update(torch.tensor([[0, 2]]), progress)
    torch.testing.assert_close(change, torch.tensor([[expected, -expected]]), rtol=1e-6, atol=1e-9)


def test_the_original_rule_moves_by_the_signed_square_of_the_distance() -> None:
    """Catches a turned sign, a lost sign (squares are positive) and counts instead of shares."""
    change = OriginalRule(0.1).bias_update(LOADS, 0.3)
    # shares 0.5, 0.1, 0.2, 0.2; 0, 0, 0, 1; 7, 1, 5, 3 sixteenths: 1/4 is fair
    expected = [
        [-0.1 * 0.25**2, 0.1 * 0.15**2, 0.1 * 0.05**2, 0.1 * 0.05**2],
        [0.1 * 0.25**2] * 3 + [-0.1 * 0.75**2],
        [-0.1 * (3 / 16) ** 2, 0.1 * (3 / 16) ** 2, -0.1 * (1 / 16) ** 2, 0.1 * (1 / 16) ** 2],
    ]
    assert change.dtype == torch.float32
    torch.testing.assert_close(change, torch.tensor(expected), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(OriginalRule(0.4).bias_update(LOADS, 0.3), 4 * change)
    assert OriginalRule().rate == 0.1


@pytest.mark.parametrize("experts", [3, 7, 8, 48])
def test_the_original_rule_leaves_even_loads_alone(experts: int) -> None:
    """Catches a fair share computed otherwise than the share that it is compared with."""
    assert (OriginalRule().bias_update(torch.full((2, experts), 13), 0.0) == 0).all()


def test_no_balancing_changes_nothing_at_all() -> None:
    """The baseline of every comparison: any hidden term would make it another strategy."""
    change = Unbalanced().bias_update(LOADS, 0.5)
    assert change.shape == (3, 4) and change.dtype == torch.float32 and (change == 0).all()
    assert Unbalanced().loss(micro_batch()) is None
    assert not list(Unbalanced().parameters()) and not list(Unbalanced().buffers())


@pytest.mark.parametrize("balancer", [LossFree(0.1), LossFree(0.1, "cosine"), OriginalRule(), Unbalanced()])
def test_rules_of_bias_add_no_loss_and_keep_loads_and_state(balancer: Balancer) -> None:
    """A loss-free strategy with a loss is not loss-free; loads are read by callbacks afterwards."""
    loads = LOADS.clone()
    first = balancer.bias_update(loads, 0.25)
    assert torch.equal(loads, LOADS)
    assert torch.equal(balancer.bias_update(loads, 0.25), first)
    assert balancer.loss(micro_batch()) is None
    assert not first.requires_grad


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LossFree(0.0), "balancing.rate=0.0"),
        (lambda: LossFree(-1e-3), "balancing.rate=-0.001"),
        (lambda: LossFree(float("nan")), "balancing.rate=nan"),
        (lambda: LossFree(0.1, "linear"), "balancing.schedule=linear.*constant, cosine, freeze"),  # type: ignore[arg-type]
        (lambda: LossFree(0.1, "freeze", 1.5), "balancing.freeze_at=1.5"),
        (lambda: LossFree(0.1, "freeze", -0.1), "balancing.freeze_at=-0.1"),
        (lambda: OriginalRule(0.0), "balancing.rate=0.0"),
        (lambda: OriginalRule(-1.0), "balancing.rate=-1.0"),
        (lambda: OriginalRule(float("nan")), "balancing.rate=nan"),
    ],
)
def test_bad_values_are_refused_by_key_and_value(make: Any, said: str) -> None:
    """A negative rate unbalances, a rate of 0 is a baseline in disguise: neither may run unnoticed."""
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize("make", [lambda: LossFree("abc"), lambda: OriginalRule("abc")])  # type: ignore[arg-type]
def test_words_for_numbers_are_refused_by_key_and_value(make: Any) -> None:
    """``balancing.rate=abc`` must be answered with its key, not with "'>' not supported ..."."""
    with pytest.raises(UserError, match=r"balancing\.rate=abc"):
        make()


def test_an_infinite_rate_is_refused() -> None:
    """inf - inf is nan, and top-k of nan scores is arbitrary."""
    with pytest.raises(UserError):
        LossFree(math.inf)


@pytest.mark.parametrize(("experts", "k"), [(8, 2), (16, 3)])
def test_loss_free_evens_the_load_of_a_fixed_router(experts: int, k: int) -> None:
    """The one thing it is for; also shows that bias and choice fit together in sign."""
    router, x = skewed(experts, k, seed=0)
    balancer, steps = LossFree(0.01, "cosine"), 300
    with torch.no_grad():
        before = max_violation(router(x).load[None])
        for step in range(steps):
            update_biases([router], balancer.bias_update(router(x).load[None], step / steps))
        after = max_violation(router(x).load[None])
    assert before > 1.5
    assert after < 0.1
    assert abs(router.bias.mean()) < 1e-5  # centred: no drift


def test_the_original_rule_is_slow_and_goes_the_right_way() -> None:
    """A baseline that could not improve anything would be a straw man."""
    router, x = skewed(8, 2, seed=0)
    with torch.no_grad():
        before = max_violation(router(x).load[None])
        for _ in range(300):
            update_biases([router], OriginalRule(0.1).bias_update(router(x).load[None], 0.0))
        after = max_violation(router(x).load[None])
    assert after < 0.8 * before


def test_biases_move_in_place_row_by_row() -> None:
    """A bias that is replaced instead of changed is lost to a compiled model and to the optimizer's view of it."""
    routers = [Router(config(4, 2)) for _ in range(3)]
    held = [router.bias for router in routers]
    routers[1].bias += 1.0
    change = torch.arange(12, dtype=torch.float32).view(3, 4) / 8
    for _ in range(2):
        update_biases(routers, change)
    for row, (router, bias) in enumerate(zip(routers, held, strict=True)):
        assert router.bias is bias and router.bias.dtype == torch.float32
        torch.testing.assert_close(bias, 2 * change[row] + (row == 1))
    assert torch.equal(change, torch.arange(12, dtype=torch.float32).view(3, 4) / 8)


def test_a_change_for_another_number_of_layers_is_no_change() -> None:
    """Loads of fewer layers than routers would silently balance the wrong ones."""
    routers = [Router(config(4, 2)) for _ in range(3)]
    with pytest.raises(RuntimeError):
        update_biases(routers, torch.ones(2, 4))
    assert all((router.bias == 0).all() for router in routers)
