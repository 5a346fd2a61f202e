"""Validation sums over batches."""

from __future__ import annotations

import math

import pytest
import torch

from s15erav3.training.metrics import BitsPerByte, ExpertLoads


def test_bits_per_byte_by_hand_over_uneven_batches() -> None:
    """A mean of means weighs a short last batch like a full one; 'per token' is not 'per byte'."""
    metric = BitsPerByte()
    metric.update(torch.tensor(6.0), torch.tensor([[1, 2, 0], [3, 1, 1]]))
    metric.update(torch.tensor(1.5), torch.tensor([4]))
    total = metric.compute()
    assert total["tokens"] == 7 and total["bytes"] == 12
    assert total["loss"].item() == pytest.approx(7.5 / 7)
    assert total["bpb"].item() == pytest.approx(7.5 / 12 / math.log(2))


def test_a_uniform_guess_of_bytes_costs_eight_bits() -> None:
    """The scale of the headline number: 256 equally likely bytes, one byte per token."""
    metric = BitsPerByte()
    metric.update(torch.tensor(100 * math.log(256)), torch.ones(100, dtype=torch.int64))
    assert metric.compute()["bpb"].item() == pytest.approx(8.0)


def test_many_batches_add_up_exactly() -> None:
    """fp32 sums stop growing at 2^24 batches of one nat; a validation set has more tokens than that."""
    metric = BitsPerByte()
    metric.update(torch.tensor(2.0**25), torch.zeros(0, dtype=torch.int32))
    for _ in range(3):
        metric.update(torch.tensor(1.0), torch.full((1000,), 200, dtype=torch.uint8))
    total = metric.compute()
    assert (total["loss"] * total["tokens"]).item() == 2**25 + 3
    assert total["bytes"] == 600_000 and total["bytes"].dtype == torch.int64


def test_reset_forgets_everything() -> None:
    """Catches one validation that counts the one before as well."""
    metric, loads = BitsPerByte(), ExpertLoads(2, 3)
    for _ in range(2):
        metric.update(torch.tensor(3.0), torch.tensor([1, 2]))
        loads.update(torch.ones(2, 3, dtype=torch.int64))
        total, counted = metric.compute(), loads.compute()
        metric.reset()
        loads.reset()
    assert total["tokens"] == 2 and total["loss"].item() == 1.5
    assert counted.sum() == 6


def test_expert_loads_sum_per_layer_and_expert() -> None:
    """Catches loads that overwrite or alias the batch's own tensor."""
    metric = ExpertLoads(2, 3)
    batch = torch.tensor([[1, 2, 3], [4, 5, 6]])
    metric.update(batch)
    metric.update(torch.tensor([[10, 0, 0], [0, 0, 2**40]]))
    assert metric.compute().tolist() == [[11, 2, 3], [4, 5, 6 + 2**40]]
    assert metric.compute().dtype == torch.int64
    assert batch.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float"])
def test_casting_the_module_around_them_leaves_the_sums_wide(cast: str) -> None:
    """A module cast to bf16 would count tokens with 8 bits."""

    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.metric, self.loads = BitsPerByte(), ExpertLoads(1, 2)

    module = Around()
    getattr(module, cast)()
    assert module.metric.nll.dtype == torch.float64
    assert module.metric.tokens.dtype == module.loads.loads.dtype == torch.int64
    assert not module.state_dict()  # sums of one validation do not belong in a checkpoint
