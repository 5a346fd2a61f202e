"""Proportional and SMEBU: steps that shrink with the error, against numbers computed by hand.

Each docstring names mutations of the rule that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from s15erav3.balancing import SMEBU, Proportional
from s15erav3.balancing.base import update_biases
from s15erav3.balancing.diagnostics import max_violation
from s15erav3.balancing.rule import LoadRule
from s15erav3.errors import UserError
from s15erav3.model import Router
from tests.balancing.parts import config, skewed

LOADS = torch.tensor([[10, 2, 4, 4], [0, 0, 0, 20], [5, 5, 5, 5]])  # means 5, 5, 5
ERRORS = [[-1.0, 0.6, 0.2, 0.2], [1.0, 1.0, 1.0, -3.0], [0.0, 0.0, 0.0, 0.0]]


def smebu(layers: int = 1, experts: int = 4, **settings: Any) -> SMEBU:
    balancer = SMEBU(**{"rate": 0.1, "kappa": 2.0, "beta": 0.5, **settings})
    balancer.attach([Router(config(experts, 1)) for _ in range(layers)])
    return balancer


def test_proportional_moves_by_the_relative_error() -> None:
    """Seen to fail with the sign turned, the error in tokens, and the mean taken over layers."""
    change = Proportional(0.1).bias_update(LOADS, 0.0)
    assert change.dtype == torch.float32
    torch.testing.assert_close(change, 0.1 * torch.tensor(ERRORS), rtol=1e-6, atol=1e-9)


def test_proportional_does_not_depend_on_the_size_of_the_batch() -> None:
    """Seen to fail with the error in tokens: twice the batch would be twice the rate."""
    rule = Proportional(0.1)
    torch.testing.assert_close(rule.bias_update(LOADS * 1_000_000, 0.0), rule.bias_update(LOADS, 0.0))


def test_proportional_follows_the_schedule() -> None:
    """Seen to fail with a rate that ignores progress."""
    for rule, share in ((Proportional(0.1, "cosine"), 0.5), (Proportional(0.1, "freeze", 0.5), 0.0)):
        torch.testing.assert_close(rule.bias_update(LOADS, 0.5), share * Proportional(0.1).bias_update(LOADS, 0.5))


def test_smebu_over_three_steps_by_hand() -> None:
    """Seen to fail with kappa left out, without the centring, with beta and 1 - beta exchanged, and without momentum.

    beta is 0.75, so that it differs from 1 - beta. The first step: v = (-0.9640, 0.8337, 0.3799, 0.3799), mean 0.1574.
    """
    first = 0.25 * 0.1 * torch.tensor([[-0.9640 - 0.1574, 0.8337 - 0.1574, 0.3799 - 0.1574, 0.3799 - 0.1574]])
    torch.testing.assert_close(smebu(beta=0.75).bias_update(LOADS[:1], 0.0), first, rtol=0, atol=1e-5)
    rule = smebu(layers=2, beta=0.75)
    steps = [[10, 2, 4, 4], [0, 0, 0, 20], [2, 10, 4, 4]]
    momentum = [0.0] * 4
    for load in steps:
        v = [math.tanh(2.0 * (5 - c) / 5) for c in load]
        d = [0.1 * (x - sum(v) / 4) for x in v]
        momentum = [0.75 * m + 0.25 * x for m, x in zip(momentum, d, strict=True)]
        change = rule.bias_update(torch.tensor([load, [5, 5, 5, 5]]), 0.0)
        assert change.dtype == torch.float32
        torch.testing.assert_close(change, torch.tensor([momentum, [0.0] * 4]), rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(rule.momentum, change)


def test_smebu_is_bounded_for_large_errors_and_proportional_for_small_ones() -> None:
    """Seen to fail with the clamp left out (kappa e without tanh), and with tanh outside of kappa."""
    rule = smebu(beta=0.0, centred=False, experts=64)
    collapsed = torch.zeros(1, 64, dtype=torch.int64)
    collapsed[0, 0] = 64_000
    torch.testing.assert_close(rule.bias_update(collapsed, 0.0)[0, 0], torch.tensor(-0.1))
    slight = torch.full((1, 64), 100_000)
    slight[0, 0], slight[0, 1] = 99_000, 101_000
    torch.testing.assert_close(rule.bias_update(slight, 0.0)[0, :2], torch.tensor([0.002, -0.002]), rtol=1e-3, atol=0)


def test_smebu_of_great_kappa_and_no_memory_is_the_sign_rule() -> None:
    """Seen to fail with a kappa that is left out."""
    change = smebu(kappa=1e6, beta=0.0).bias_update(LOADS[:1], 0.0)
    torch.testing.assert_close(change, 0.1 * torch.tensor([[-1.5, 0.5, 0.5, 0.5]]))


def test_smebus_momentum_is_spent_after_a_freeze() -> None:
    """Seen to fail with a rate that multiplies the momentum in place of the step: it would stop at once."""
    rule = smebu(schedule="freeze", freeze_at=0.5)
    first = rule.bias_update(LOADS[:1], 0.4)
    for half in (0.5, 0.25):
        torch.testing.assert_close(rule.bias_update(LOADS[:1], 0.6), half * first)


def test_smebus_change_is_a_copy_of_its_momentum() -> None:
    """A record of the step that the next step rewrites. Seen to fail without ``clone``."""
    rule = smebu()
    first = rule.bias_update(LOADS[:1], 0.0)
    kept = first.clone()
    rule.bias_update(LOADS[1:2], 0.0)
    assert torch.equal(first, kept)


def test_smebus_momentum_is_saved_and_loaded() -> None:
    """State that is lost on resuming. Seen to fail with ``persistent=False``; through the verbs: test_resuming.py."""
    rule, other = smebu(layers=3), smebu(layers=3)
    rule.bias_update(LOADS, 0.0)
    assert rule.momentum.shape == (3, 4) and rule.momentum.dtype == torch.float32
    other.load_state_dict(rule.state_dict())
    assert torch.equal(other.bias_update(LOADS.flip(0), 0.0), rule.bias_update(LOADS.flip(0), 0.0))


@pytest.mark.parametrize("rule", [Proportional(0.02, "cosine"), smebu(experts=16, rate=0.02, schedule="cosine")])
def test_smooth_rules_even_the_load_of_a_fixed_router(rule: LoadRule) -> None:
    """Seen to fail with the sign of the error turned."""
    router, x = skewed(16, 3, seed=0)
    with torch.no_grad():
        before = max_violation(router(x).load[None])
        for step in range(300):
            update_biases([router], rule.bias_update(router(x).load[None], step / 300))
        after = max_violation(router(x).load[None])
    assert before > 1.5 and after < 0.15
    assert abs(router.bias.mean()) < 1e-5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Proportional(0.0), r"balancing\.rate=0\.0"),
        (lambda: Proportional(0.1, "linear"), r"balancing\.schedule=linear"),  # type: ignore[arg-type]
        (lambda: SMEBU(0.0), r"balancing\.rate=0\.0"),
        (lambda: SMEBU(0.1, kappa=0.0), r"balancing\.kappa=0\.0"),
        (lambda: SMEBU(0.1, beta=1.0), r"balancing\.beta=1\.0"),
        (lambda: SMEBU(0.1, beta=-0.1), r"balancing\.beta=-0\.1"),
    ],
)
def test_bad_values_are_refused_by_key_and_value(make: Any, said: str) -> None:
    """beta = 1 never moves and kappa = 0 neither: baselines in disguise. Seen to fail without each check."""
    with pytest.raises(UserError, match=said):
        make()
