"""Sums of routings over batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from s15erav3.model import Routing
from s15erav3.training.routing_metrics import Coactivation, CountTable, TokenMean


def routing(experts: Tensor, tokens: Tensor | None = None, n: int | None = None, width: int = 3) -> Routing:
    scores = torch.full((n or len(experts), width), 0.5)
    load = torch.bincount(experts.flatten(), minlength=width)
    return Routing(scores, experts, torch.ones(experts.shape), load, scores.logit(), torch.zeros(width), None, tokens)


def test_count_table_by_hand() -> None:
    """Catches layers that write into each other, labels taken by slot instead of by token, and a second batch that
    replaces the first."""
    table = CountTable(layers=2, values=2, experts=3)
    first = routing(torch.tensor([[0, 1], [0, 2]])), routing(torch.tensor([[1, 2], [1, 2]]))
    table.update(torch.tensor([1, 0]), first)
    table.update(torch.tensor([1]), (routing(torch.tensor([[0, 2]])), routing(torch.tensor([[0, 1]]))))
    counts, tokens = table.compute()
    assert counts.tolist() == [[[1, 0, 1], [2, 1, 1]], [[0, 1, 1], [1, 2, 1]]]
    assert tokens.tolist() == [1, 2]


def test_count_table_where_experts_choose_tokens() -> None:
    """Three slots of two tokens: catches a label taken by the slot's position."""
    table = CountTable(layers=1, values=2, experts=3)
    table.update(torch.tensor([0, 1]), [routing(torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0]), n=2)])
    counts, tokens = table.compute()
    assert counts.tolist() == [[[0, 0, 1], [1, 1, 0]]]
    assert tokens.tolist() == [1, 1]


def test_coactivation_adds_up() -> None:
    """Catches a sum over layers."""
    together = Coactivation(layers=2, experts=3)
    for _ in range(2):
        together.update([routing(torch.tensor([[0, 1]])), routing(torch.tensor([[1, 2]]))])
    assert together.compute().tolist() == [[[2, 2, 0], [2, 2, 0], [0, 0, 0]], [[0, 0, 0], [0, 2, 2], [0, 2, 2]]]


def test_token_mean_weighs_batches_by_their_tokens() -> None:
    """A mean of means would say 0.5 of a short last batch that differs."""
    mean = TokenMean(2)
    mean.update([torch.tensor(1.0), torch.tensor(0.0)], 30)
    mean.update([torch.tensor(0.0), torch.tensor(1.0)], 10)
    assert mean.compute().tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    "metric", [CountTable(1, 2, 3), Coactivation(1, 3), TokenMean(1)], ids=lambda m: type(m).__name__
)
def test_states_are_wide_summed_and_not_shared(metric: CountTable | Coactivation | TokenMean) -> None:
    """Over ranks sums must be added; updated in place, memory shared by ranks would be counted twice."""
    assert all(function.__name__ == "dim_zero_sum" for function in metric._reductions.values())
    before = {name: getattr(metric, name) for name in metric._defaults}
    record = routing(torch.tensor([[0, 1]]))
    if isinstance(metric, CountTable):
        metric.update(torch.tensor([1]), [record])
    elif isinstance(metric, Coactivation):
        metric.update([record])
    else:
        metric.update([torch.tensor(1.0)], 1)
    for name, tensor in before.items():
        assert tensor.sum() == 0, name
        assert getattr(metric, name).dtype in (torch.int64, torch.float64)
