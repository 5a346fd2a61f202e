"""The auxiliary loss over micro-batches, sequences and the global batch.

Each docstring names mutations of the rule that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from s15erav3.balancing import AuxiliaryLoss
from s15erav3.errors import UserError
from s15erav3.model import Router, Routing
from tests.balancing.parts import micro_batch, naive_f, naive_p, random_scores, routing_of, softmax_config

SCORES = [[0.8, 0.4, 0.4], [0.6, 0.2, 0.2], [0.2, 0.2, 0.6], [0.5, 0.2, 0.3]]
"""Shares: (.5 .25 .25), (.6 .2 .2), (.2 .2 .6), (.5 .2 .3); experts 0, 0, 2, 0."""


def part(routing: Routing, first: int, last: int) -> Routing:
    """Tokens ``first`` to ``last`` of a routing."""
    chosen = routing.experts[first:last]
    load = torch.bincount(chosen.flatten(), minlength=routing.scores.shape[1])
    return routing._replace(scores=routing.scores[first:last], experts=chosen, load=load)


def gradient(loss: Tensor, scores: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, scores, retain_graph=True)
    return found


def test_micro_by_hand() -> None:
    """Seen to fail with P of raw scores, f without E, f without 1 / K, and a mean over layers in place of a sum."""
    f, p = (9 / 4, 0, 3 / 4), (1.8 / 4, 0.85 / 4, 1.35 / 4)
    expected = 0.1 * sum(x * y for x, y in zip(f, p, strict=True))
    loss = AuxiliaryLoss(0.1)
    torch.testing.assert_close(loss.loss(micro_batch(routing_of(SCORES, 1))), torch.tensor(expected))
    two_layers = micro_batch(routing_of(SCORES, 1), routing_of(SCORES, 1))
    torch.testing.assert_close(loss.loss(two_layers), torch.tensor(2 * expected))
    # Two experts per token, (0 1), (0 2), (2 0) and (0 2), so f = 3/8 (4, 1, 3).
    twice = [[0.8, 0.5, 0.4], [0.6, 0.2, 0.3], [0.3, 0.2, 0.6], [0.5, 0.2, 0.3]]
    shares = [[0.8 / 1.7, 0.5 / 1.7, 0.4 / 1.7], [6 / 11, 2 / 11, 3 / 11], [3 / 11, 2 / 11, 6 / 11], [0.5, 0.2, 0.3]]
    expected = sum(3 / 8 * c * sum(row[i] for row in shares) / 4 for i, c in enumerate((4, 1, 3)))
    torch.testing.assert_close(AuxiliaryLoss(1.0).loss(micro_batch(routing_of(twice, 2))), torch.tensor(expected))


def test_groups_by_hand() -> None:
    """DeepSeek-V2, eq. 26-28, for groups (0 1) and (2 3). Seen to fail with the sum of f in place of its mean, with the
    mean of P in place of its sum, and with every second expert as a group."""
    scores = [[0.6, 0.2, 0.1, 0.1], [0.5, 0.3, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6], [0.1, 0.7, 0.1, 0.1]]
    f = [4 / 4 * count for count in (2, 1, 0, 1)]  # E / (K N) = 4 / (1 * 4)
    p = [sum(row[i] for row in scores) / 4 for i in range(4)]
    expected = 0.5 * ((f[0] + f[1]) / 2 * (p[0] + p[1]) + (f[2] + f[3]) / 2 * (p[2] + p[3]))
    routing = routing_of(scores, 1)
    for scope in ("micro", "global"):
        loss = AuxiliaryLoss(0.5, scope, groups=2).loss(micro_batch(routing))  # type: ignore[arg-type]
        torch.testing.assert_close(loss, torch.tensor(expected))
    loss = AuxiliaryLoss(0.5, "sequence", groups=2).loss(micro_batch(routing))
    torch.testing.assert_close(loss, torch.tensor(expected))
    whole = AuxiliaryLoss(0.5, groups=4).loss(micro_batch(routing))
    torch.testing.assert_close(whole, AuxiliaryLoss(0.5).loss(micro_batch(routing)))
    with pytest.raises(UserError, match=r"balancing\.groups=3 must divide experts\.n_routed_experts=4"):
        AuxiliaryLoss(0.1, groups=3).attach([Router(softmax_config(4, 2))])


@pytest.mark.parametrize("scope", ["micro", "sequence", "global"])
@pytest.mark.parametrize("k", [1, 3])
def test_even_loads_and_even_shares_cost_alpha_per_layer(scope: Any, k: int) -> None:
    """The least value is alpha L whatever E and K. Seen to fail without E, without 1 / K and without alpha."""
    n_experts = 6
    even = torch.full((12, n_experts), 0.5)
    experts = torch.stack([(torch.arange(k) + i) % n_experts for i in range(12)])
    one = routing_of(even, k)._replace(experts=experts, load=torch.full((n_experts,), 12 * k // n_experts))
    loss = AuxiliaryLoss(0.25, scope).loss(micro_batch(one, one, one, sequences=2))
    assert loss.item() == pytest.approx(0.75)


@pytest.mark.parametrize("scope", ["micro", "sequence", "global"])
def test_gradients_flow_through_p_alone(scope: Any) -> None:
    """Against autograd of the naive formula in float64. Seen to fail with P detached, P of raw scores, and an f of
    soft counts (its gradient would tell the router to change sides, not to be even)."""
    scores = random_scores(12, 5, 0)
    routing = routing_of(scores, 2)
    got = gradient(AuxiliaryLoss(0.3, scope).loss(micro_batch(routing, sequences=3)), scores)
    pieces = [routing] if scope != "sequence" else [part(routing, i, i + 4) for i in (0, 4, 8)]
    naive = [0.3 * (naive_f(piece) * naive_p(piece)).sum() for piece in pieces]
    torch.testing.assert_close(got, gradient(torch.stack(naive).mean(), scores), rtol=1e-5, atol=1e-9)
    assert got.abs().max() > 0


def test_the_scopes_differ_where_they_should() -> None:
    """Each sequence and micro-batch uneven, the whole even. Seen to fail with any scope treated as another."""
    apart = routing_of([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], 1)
    halves = [part(apart, 0, 2), part(apart, 2, 4)]
    assert AuxiliaryLoss(1.0, "sequence").loss(micro_batch(apart, sequences=2)).item() == pytest.approx(1.8)
    assert AuxiliaryLoss(1.0, "micro").loss(micro_batch(apart, sequences=2)).item() == pytest.approx(1.0)
    for scope, second in (("micro", 1.8), ("global", 1.0)):
        rule = AuxiliaryLoss(1.0, scope)  # type: ignore[arg-type]
        assert rule.loss(micro_batch(halves[0])).item() == pytest.approx(1.8)
        assert rule.loss(micro_batch(halves[1])).item() == pytest.approx(second)


def test_global_f_counts_the_micro_batches_so_far_and_p_its_own() -> None:
    """Seen to fail with f of the micro-batch alone, f that is replaced each time, P of all micro-batches, and a count
    that is not begun anew with the next step."""
    scores = random_scores(12, 5, 0)
    whole, rule = routing_of(scores, 2), AuxiliaryLoss(0.3, "global")
    for _ in range(2):
        for first in (0, 4, 8):
            own = part(whole, first, first + 4)
            loss = rule.loss(micro_batch(own))
            naive = 0.3 * (naive_f(part(whole, 0, first + 4)) * naive_p(own)).sum()
            torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-9)
            torch.testing.assert_close(gradient(loss, scores), gradient(naive, scores), rtol=1e-5, atol=1e-9)
        rule.bias_update(torch.zeros(1, 5, dtype=torch.int64), 0.0)


def test_global_f_is_counted_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank's own imbalance taken for the global one. Seen to fail without the sum over ranks; and the loads that
    the step counts stay untouched: seen to fail with a sum in place on ``routing.load``."""
    other = torch.tensor([[0, 4, 4]])  # even together with this rank's 4, 0, 0

    def all_reduce(loads: Tensor) -> None:
        loads += other

    routing = routing_of([[0.6, 0.2, 0.2]] * 4, 1)
    assert AuxiliaryLoss(1.0, "global").loss(micro_batch(routing)).item() == pytest.approx(1.8)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    rule = AuxiliaryLoss(1.0, "global")
    for _ in range(2):
        assert rule.loss(micro_batch(routing)).item() == pytest.approx(1.0)
    assert routing.load.tolist() == [4, 0, 0]
    assert AuxiliaryLoss(1.0, "micro").loss(micro_batch(routing)).item() == pytest.approx(1.8)


def test_the_bias_stays() -> None:
    """A loss that also moved the bias would be two strategies. Seen to fail with the sign rule added."""
    change = AuxiliaryLoss(0.1, "global").bias_update(torch.tensor([[9, 1]]), 0.0)
    assert change.dtype == torch.float32 and (change == 0).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AuxiliaryLoss(0.0), r"balancing\.alpha=0\.0"),
        (lambda: AuxiliaryLoss(-1.0), r"balancing\.alpha=-1\.0"),
        (lambda: AuxiliaryLoss(0.1, "batch"), "scope=batch.*micro, sequence, global"),  # type: ignore[arg-type]
    ],
)
def test_bad_values_are_refused_by_key_and_value(make: Any, said: str) -> None:
    """A negative alpha rewards collapse. Seen to fail without each check."""
    with pytest.raises(UserError, match=said):
        make()


def test_experts_that_choose_are_refused() -> None:
    """Their loads are even, and their routings have another shape. Seen to fail without ``refuse_expert_choice``."""
    with pytest.raises(UserError, match=r"AuxiliaryLoss.*expert_choice"):
        AuxiliaryLoss(0.1).attach([Router(softmax_config(4, 2, topk_method="expert_choice"))])
