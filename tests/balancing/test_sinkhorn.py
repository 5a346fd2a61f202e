"""Sinkhorn: a transport plan against one computed by hand and against its two conditions.

Docstrings name mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from s15erav3.balancing import Sinkhorn
from s15erav3.balancing.diagnostics import max_violation
from s15erav3.errors import UserError
from tests.balancing.parts import inputs, random_scores, reader, skewed


def test_one_round_by_hand() -> None:
    """kernel exp(s / tau) = [[4, 1], [3, 1]]: u = (1/5, 1/4); columns 4/5 + 3/4 = 1.55, 1/5 + 1/4 = 0.45.

    Seen to fail with the temperature left out of the kernel or of the bias, with rows and columns exchanged, and
    with the bias of the other sign.
    """
    tau = 0.5
    scores = tau * torch.tensor([[4.0, 1.0], [3.0, 1.0]]).log()
    bias = Sinkhorn(rounds=1, temperature=tau).solve(scores, torch.zeros(2))
    half = tau * (math.log(1 / 1.55) - math.log(1 / 0.45)) / 2
    torch.testing.assert_close(bias, torch.tensor([half, -half]))


def test_the_plan_has_even_rows_and_columns() -> None:
    """Seen to fail with one round, and with the sum over the wrong dimension."""
    scores, tau = random_scores(64, 6, 0).detach(), 0.2
    bias = Sinkhorn(rounds=200, temperature=tau).solve(scores, torch.zeros(6, dtype=torch.float64))
    plan = ((scores + bias) / tau).softmax(dim=1) / 64
    torch.testing.assert_close(plan.sum(dim=0), torch.full((6,), 1 / 6, dtype=torch.float64))


def test_it_evens_the_load_of_a_skewed_router_in_training_alone() -> None:
    """The paper's inference is greedy. Seen to fail without the solver, and with the solver in evaluation."""
    router, x = skewed(8, 2, seed=0)
    collapsed = max_violation(router(x).load)
    Sinkhorn(rounds=20).attach([router])
    trained = router(x)
    assert max_violation(trained.load) < 0.5 < 1 < collapsed
    assert torch.equal(trained.weights, router.weigh(trained.scores, trained.experts))  # without the bias
    assert max_violation(router.eval()(x).load) == collapsed


def test_large_affinities_do_not_overflow() -> None:
    """Seen to fail with exp in place of logarithms."""
    bias = Sinkhorn(rounds=3, temperature=1e-4).solve(torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.zeros(2))
    assert bias.isfinite().all()


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"rounds": True}, {"temperature": 0.0}])
def test_bad_values_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"balancing.{next(iter(settings))}="):
        Sinkhorn(**settings)


def test_the_choice_of_a_small_batch() -> None:
    """Both tokens prefer expert 0; the one that loses least takes 1. Seen to fail without the bias."""
    router = reader(2, 1)
    Sinkhorn(rounds=50).attach([router])
    assert router(inputs([[2.0, -2.0], [1.0, 0.5]])).experts.flatten().tolist() == [0, 1]
