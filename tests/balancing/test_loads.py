"""Loads of all layers in one tensor, summed over ranks by one all-reduce."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from s15erav3.balancing import LossFree
from s15erav3.balancing.base import stack_loads, sum_over_ranks
from s15erav3.model.router import Routing
from tests.training.together import in_ranks


def routing(*load: int) -> Routing:
    empty = torch.empty(0)
    return Routing(empty, empty, empty, torch.tensor(load), empty, empty)


def test_loads_are_stacked_layer_by_layer() -> None:
    """Catches layers out of order, and loads that alias a routing which a later all-reduce would change."""
    first, second = routing(1, 2, 3), routing(4, 5, 6)
    loads = stack_loads([first, second])
    assert loads.dtype == torch.int64 and loads.tolist() == [[1, 2, 3], [4, 5, 6]]
    loads += 100
    assert first.load.tolist() == [1, 2, 3]


def test_all_layers_take_one_all_reduce(monkeypatch: pytest.MonkeyPatch) -> None:
    """One collective per layer costs a round trip per layer in every step."""
    calls: list[Tensor] = []

    def all_reduce(tensor: Tensor, *args: object, **kwargs: object) -> None:
        calls.append(tensor.clone())
        tensor *= 3

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    loads = sum_over_ranks(stack_loads([routing(1, 2), routing(3, 4), routing(5, 6)]))
    assert len(calls) == 1 and calls[0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert loads.tolist() == [[3, 6], [9, 12], [15, 18]]


def test_a_single_process_talks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a collective without a process group, which raises."""
    monkeypatch.setattr(dist, "all_reduce", lambda *_: pytest.fail("all_reduce in a single process"))
    loads = torch.tensor([[1, 2]])
    assert torch.equal(sum_over_ranks(loads), torch.tensor([[1, 2]]))


def of_this_rank() -> tuple[Tensor, Tensor]:
    # Each rank alone sees another overloaded expert than the two together.
    own = [routing(9, 1, 0), routing(5, 5, 0)] if dist.get_rank() == 0 else [routing(0, 4, 6), routing(0, 0, 10)]
    loads = sum_over_ranks(stack_loads(own))
    return loads, LossFree(0.1).bias_update(loads, 0.0)


def test_two_ranks_see_the_loads_of_both(tmp_path: Path) -> None:
    """Per-rank imbalance reported as global, and biases that differ between ranks: bugs that others shipped."""
    (loads, change), (other_loads, other_change) = in_ranks(2, of_this_rank, tmp_path)
    assert loads.tolist() == [[9, 5, 6], [5, 5, 10]]
    assert torch.equal(loads, other_loads) and torch.equal(change, other_change)
    expected = 0.1 * torch.tensor([[-4.0, 2, 2], [2, 2, -4]]) / 3
    torch.testing.assert_close(change, expected)
