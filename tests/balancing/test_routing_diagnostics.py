"""Diagnostics of routings against hand values, whether tokens choose experts or experts tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from s15erav3.balancing.routing_diagnostics import (
    chosen,
    churn,
    coactivation,
    coactivation_share,
    confidence,
    saturation,
    slots,
    top_k_margin,
)
from s15erav3.model import Routing


def routing(scores: list[list[float]], experts: Tensor, bias: Tensor, tokens: Tensor | None = None) -> Routing:
    s = torch.tensor(scores)
    load = torch.bincount(experts.flatten(), minlength=s.shape[1])
    return Routing(s, experts, torch.ones(experts.shape), load, s.logit(), bias, None, tokens)


SCORES = [[0.8, 0.4, 0.2, 0.2], [0.1, 0.7, 0.6, 0.1], [0.3, 0.3, 0.3, 0.9]]
BIAS = torch.tensor([0.0, 0.0, 0.5, -0.25])
BY_TOKEN = routing(SCORES, torch.tensor([[0, 2], [2, 1], [2, 3]]), BIAS)
BY_EXPERT = routing(SCORES, torch.tensor([0, 0, 1, 1, 2, 2]), BIAS, torch.tensor([0, 2, 1, 0, 1, 2]))


def test_slots_of_both_kinds() -> None:
    """Catches experts paired with the wrong token when (N, K) is flattened the other way."""
    token, expert = slots(BY_TOKEN)
    assert list(zip(token.tolist(), expert.tolist(), strict=True)) == [(0, 0), (0, 2), (1, 2), (1, 1), (2, 2), (2, 3)]
    token, expert = slots(BY_EXPERT)
    assert list(zip(token.tolist(), expert.tolist(), strict=True))[:3] == [(0, 0), (2, 0), (1, 1)]


def test_chosen_marks_pairs_and_adds_up_to_the_loads() -> None:
    """Catches (expert, token) for (token, expert): square cases would hide it, so N is not E."""
    assert chosen(BY_TOKEN).int().tolist() == [[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert chosen(BY_EXPERT).int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]]
    for record in (BY_TOKEN, BY_EXPERT):
        assert chosen(record).sum(0).tolist() == record.load.tolist()


def test_confidence_by_hand() -> None:
    """Catches the bias let in, a sum over tokens, and softmax of what is no logit."""
    expected = (0.8 / 1.6 + 0.7 / 1.5 + 0.9 / 1.8) / 3
    assert confidence(BY_TOKEN).item() == pytest.approx(expected)
    assert confidence(BY_EXPERT).item() == pytest.approx(expected)


def test_margin_by_hand() -> None:
    """s + b is [.8 .4 .7 -.05], [.1 .7 1.1 -.15], [.3 .3 .8 .65]: catches a bias left out, or the best two compared."""
    assert top_k_margin(BY_TOKEN).item() == pytest.approx(((0.7 - 0.4) + (0.7 - 0.1) + (0.65 - 0.3)) / 3)


def test_margin_without_a_choice_is_zero_and_without_a_k_refused() -> None:
    """Catches topk(E + 1), and a margin of expert choice read off the number of slots."""
    everything = torch.arange(4).expand(3, 4)
    assert top_k_margin(routing(SCORES, everything, BIAS)).item() == 0
    with pytest.raises(ValueError, match="no K-th"):
        top_k_margin(BY_EXPERT)


def test_churn_compares_sets() -> None:
    """Catches the order of topk, which is not sorted, counted as a change, and slots counted in place of tokens."""
    before = torch.tensor([[0, 2], [2, 1], [2, 3], [0, 1]])
    after = torch.tensor([[2, 0], [1, 2], [3, 0], [2, 3]])
    assert churn(before, after).item() == 0.5
    assert churn(before, before).item() == 0


def test_saturation_is_the_share_of_experts_in_common() -> None:
    """Catches the share of tokens whose set is the same (1 / 3 here), and a division by E."""
    final = BY_TOKEN._replace(experts=torch.tensor([[2, 0], [1, 3], [0, 3]]))
    assert saturation(BY_TOKEN, final).item() == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert saturation(BY_EXPERT, BY_TOKEN).item() == pytest.approx((1 + 2 + 1) / 6)


def test_coactivation_by_hand() -> None:
    """Catches pairs counted once per order of slots, and a diagonal that is not the load."""
    counts = coactivation(BY_TOKEN)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 3, 1], [0, 0, 1, 1]]
    for record in (BY_TOKEN, BY_EXPERT):
        assert coactivation(record).diagonal().tolist() == record.load.tolist()


def test_coactivation_counts_stay_whole_under_autocast() -> None:
    """bf16 has 8 bits: 300 tokens that share two experts would be counted as 300 or 302, 257 as 256."""
    record = routing([[0.5, 0.5, 0.1]] * 257, torch.tensor([[0, 1]] * 257), torch.zeros(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert coactivation(record)[0].tolist() == [257, 257, 0]


def test_coactivation_share_is_by_rows() -> None:
    """Catches columns for rows, and nan from an expert that nobody uses."""
    share = coactivation_share(torch.tensor([[4, 1, 0], [1, 2, 0], [0, 0, 0]]))
    assert share.tolist() == [[1, 0.25, 0], [0.5, 1, 0], [0, 0, 0]]
