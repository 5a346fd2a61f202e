"""Quantile balancing on score matrices written down, and token by token in plain Python.

Each docstring names mutations of the rule that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from s15erav3.balancing import Quantile
from s15erav3.balancing.base import update_biases
from s15erav3.balancing.diagnostics import max_violation
from s15erav3.balancing.histogram import halfway, halfway_of_ranks
from s15erav3.errors import UserError
from s15erav3.model import Router, Routing
from tests.balancing.parts import config, micro_batch, random_scores, routing_of, skewed, softmax_config

SCORES = [
    [0.9, 0.5, 0.1],  # cutoff 0.5, needed biases -0.4, 0, 0.4
    [0.8, 0.6, 0.2],  # 0.6: -0.2, 0, 0.4
    [0.6, 0.3, 0.1],  # 0.3: -0.3, 0, 0.2
    [0.9, 0.1, 0.4],  # 0.4: -0.5, 0.3, 0
    [0.6, 0.5, 0.3],  # 0.5: -0.1, 0, 0.2
    [0.2, 0.7, 0.6],  # 0.6: 0.4, -0.1, 0
]
"""Each expert is due two of the six tokens: halfway between the second and the third needed bias."""
SOLVED = [-0.35, 0.0, 0.1]  # (-0.4 - 0.3) / 2, (0 + 0) / 2, (0 + 0.2) / 2


def attached(experts: int, k: int, ema: float = 0.0, **values: Any) -> Quantile:
    balancer = Quantile(ema)
    balancer.attach([Router(config(experts, k, **values))])
    return balancer


def change(balancer: Quantile, *batches: Routing) -> Tensor:
    """What a step of these micro-batches does to the bias of one layer, (E,)."""
    for routing in batches:
        balancer.observe(micro_batch(routing))
    return balancer.bias_update(torch.ones(1, batches[0].scores.shape[1], dtype=torch.int64), 0.0)[0]


def naive(routings: list[Routing], k: int) -> list[float]:
    """b* of the class docstring, one token and one expert after the other, centred."""
    rows = [(row, r.bias.tolist()) for r in routings for row in r.scores.tolist()]
    experts, solved = len(rows[0][0]), []
    for i in range(experts):
        needed = sorted(sorted((s + b for s, b in zip(row, bias, strict=True)))[-k - 1] - row[i] for row, bias in rows)
        places = round(len(rows) * k / experts)
        solved.append((needed[places - 1] + needed[places]) / 2)
    return [b - sum(solved) / experts for b in solved]


def centred(values: list[float]) -> Tensor:
    return torch.tensor(values) - sum(values) / len(values)


def test_a_score_matrix_by_hand() -> None:
    """Seen to fail with either order statistic alone for the value halfway, the K-th largest for the (K + 1)-th, the
    sign turned, the quantile taken from the other end, and without the centring."""
    found = change(attached(3, 1), routing_of(SCORES, 1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, centred(SOLVED))


def test_the_old_bias_moves_the_cutoff_and_is_replaced() -> None:
    """Seen to fail with a cutoff of scores without bias, a needed bias that counts the old one twice, and b* added
    to the bias in place of put there.

    With b = (-0.4, 0.1, 0.3): s + b of the first token is (0.5, 0.6, 0.4), its cutoff 0.5.
    """
    bias = [-0.4, 0.1, 0.3]
    routing = routing_of(SCORES, 1, bias)
    cutoffs = [0.5, 0.5, 0.4, 0.5, 0.6, 0.8]
    needed = [[c - s for s in row] for c, row in zip(cutoffs, SCORES, strict=True)]
    solved = [sum(sorted(row[i] for row in needed)[1:3]) / 2 for i in range(3)]
    torch.testing.assert_close(torch.tensor(bias) + change(attached(3, 1), routing), centred(solved))


@pytest.mark.parametrize(("experts", "k", "tokens"), [(4, 1, 30), (6, 2, 31), (5, 3, 24), (8, 2, 3), (4, 2, 1)])
def test_random_scores_against_plain_python(experts: int, k: int, tokens: int) -> None:
    """Seen to fail with the shares of K = 1, and with an index beyond the last token."""
    bias = torch.linspace(-0.3, 0.2, experts).tolist()
    routing = routing_of(random_scores(tokens, experts, 0).detach().float(), k, bias)
    found = torch.tensor(bias) + change(attached(experts, k), routing)
    if tokens > 1:
        torch.testing.assert_close(found.tolist(), naive([routing], k), rtol=1e-5, atol=1e-6)
    assert found.isfinite().all()


def test_micro_batches_count_as_one_step() -> None:
    """The quantile of all tokens, not the mean of two quantiles. Seen to fail with the last micro-batch alone, with
    such a mean, and with tokens of the step before that are kept."""
    parts = [routing_of(SCORES[:4], 1), routing_of(SCORES[4:], 1)]
    balancer = attached(3, 1)
    change(balancer, routing_of([row[::-1] for row in SCORES], 1))
    torch.testing.assert_close(change(balancer, *parts), centred(SOLVED))
    apart = (change(attached(3, 1), parts[0]) + change(attached(3, 1), parts[1])) / 2
    assert (apart - centred(SOLVED)).abs().max() > 0.01  # else this test would show nothing


def test_ema_keeps_a_share_of_the_old_bias() -> None:
    """Seen to fail with ema and 1 - ema exchanged, and with ema left out."""
    bias = [0.2, -0.3, 0.1]
    routing = routing_of(SCORES, 1, bias)
    b = torch.tensor(bias)
    solved = b + change(attached(3, 1), routing)
    torch.testing.assert_close(b + change(attached(3, 1, ema=0.75), routing), 0.75 * b + 0.25 * solved)


def test_layers_are_solved_one_by_one() -> None:
    """Seen to fail with layers exchanged."""
    balancer = Quantile()
    balancer.attach([Router(config(3, 1)), Router(config(3, 1))])
    balancer.observe(micro_batch(routing_of(SCORES, 1), routing_of([row[::-1] for row in SCORES], 1)))
    found = balancer.bias_update(torch.ones(2, 3, dtype=torch.int64), 0.0)
    torch.testing.assert_close(found, torch.stack([centred(SOLVED), centred(SOLVED[::-1])]))


def test_the_tokens_of_all_ranks_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail without the gathering: ranks would part. Two real processes: test_two_ranks.py."""
    needed = torch.tensor([[sorted(row)[-2] - s for s in row] for row in SCORES[3:]])

    def all_gather(parts: list[Tensor], own: Tensor) -> None:
        parts[0].copy_(own)
        parts[1].copy_(needed)

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    torch.testing.assert_close(change(attached(3, 1), routing_of(SCORES[:3], 1)), centred(SOLVED))


@pytest.mark.parametrize(("experts", "k"), [(8, 2), (16, 3)])
def test_it_evens_the_load_of_a_fixed_router_in_a_few_steps(experts: int, k: int) -> None:
    """Seen to fail with the sign turned, and with the quantile taken from the other end."""
    router, x = skewed(experts, k, seed=0)
    balancer = Quantile()
    balancer.attach([router])
    with torch.no_grad():
        for step in range(30):
            routing = router(x)
            if step == 0:
                assert max_violation(routing.load[None]) > 1.5
            balancer.observe(micro_batch(routing))
            update_biases([router], balancer.bias_update(routing.load[None], 0.0))
        assert max_violation(router(x).load[None]) < 0.2
    assert abs(router.bias.mean()) < 1e-6


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_group": 2}, "Quantile does not support expert groups"),
        ({"num_experts_per_tok": 4}, "num_experts_per_tok=4 must be less than the number of experts"),
    ],
)
def test_routers_without_such_a_cutoff_are_refused(values: dict[str, Any], said: str) -> None:
    """Seen to fail without each check."""
    with pytest.raises(UserError, match=said):
        attached(4, 2, **values)
    attached(4, 2, n_group=2, topk_group=2)  # all groups are open


def test_experts_that_choose_and_bad_values_are_refused() -> None:
    """Seen to fail without each check."""
    with pytest.raises(UserError, match=r"Quantile.*expert_choice"):
        Quantile().attach([Router(softmax_config(4, 2, topk_method="expert_choice"))])
    for ema in (-0.1, 1.0):
        with pytest.raises(UserError, match=rf"balancing\.ema={ema}"):
            Quantile(ema)


@pytest.mark.parametrize(("experts", "k", "tokens"), [(4, 1, 300), (16, 3, 31), (5, 4, 24), (8, 2, 3), (4, 2, 1)])
@pytest.mark.parametrize("bins", [2, 37, 1000])
def test_histograms_are_within_a_bin_of_the_exact_quantile(experts: int, k: int, tokens: int, bins: int) -> None:
    """Seen to fail with the range of another expert, the quantile of the other end, and a bin too many or too few."""
    values = [4 * random_scores(n, experts, n).detach().float() - 2 for n in (tokens, tokens + 1)]
    found = halfway_of_ranks(values, k, bins)
    for layer, own in enumerate(values):
        width = (own.amax(dim=0) - own.amin(dim=0)) / bins
        assert ((found[layer] - halfway(own, k)).abs() <= 1.001 * width + 1e-6).all()


def test_histograms_of_evenly_spaced_values_are_exact() -> None:
    """0 to 99: halfway between the 25th and the 26th is 24.5. Of ten bins 9.9 wide, the third holds the 21st to the
    30th: 19.8 + 9.9 (0.45 + 0.55) / 2 = 24.75. Seen to fail with places counted from 0, and without the half."""
    values = torch.arange(100.0)[:, None].expand(-1, 4)
    assert halfway(values, 1).tolist() == [24.5] * 4
    torch.testing.assert_close(halfway_of_ranks([values], 1, 10)[0].tolist(), [24.75] * 4)


def test_equal_values_have_a_quantile_too() -> None:
    assert halfway_of_ranks([torch.full((6, 3), 0.25)], 1, 10).tolist() == [[0.25] * 3]


def test_scopes_average_quantiles() -> None:
    """Of two sequences of three tokens, by hand: b* of each, and their mean; ``micro`` takes both as one batch.

    The first three needed biases of expert 0 are -0.4, -0.2, -0.3, of which one is due: -0.35; the last three -0.5,
    -0.1, 0.4: -0.3. Seen to fail with the sum in place of the mean, and with sequences that are interleaved.
    """
    solved = []
    for rows in (SCORES[:3], SCORES[3:]):
        solved.append(torch.tensor(naive([routing_of(rows, 1)], 1)))
    for scope, want in (("sequence", sum(solved) / 2), ("micro", centred(SOLVED))):
        balancer = Quantile(scope=scope)  # type: ignore[arg-type]
        balancer.attach([Router(config(3, 1))])
        balancer.observe(micro_batch(routing_of(SCORES, 1), sequences=2))
        torch.testing.assert_close(balancer.bias_update(torch.ones(1, 3, dtype=torch.int64), 0.0)[0], want)
    halves = Quantile(scope="micro")
    halves.attach([Router(config(3, 1))])
    found = change(halves, routing_of(SCORES[:3], 1), routing_of(SCORES[3:], 1))
    torch.testing.assert_close(found, sum(solved) / 2)


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(UserError, match=r"balancing\.bins=10 is for balancing\.scope=step, found micro"):
        Quantile(scope="micro", bins=10)
    with pytest.raises(UserError, match=r"balancing\.bins=1 "):
        Quantile(bins=1)
    with pytest.raises(UserError, match=r"balancing\.scope=all is unknown"):
        Quantile(scope="all")  # type: ignore[arg-type]
