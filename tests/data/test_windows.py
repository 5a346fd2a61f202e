"""Windows: training order is a function of seed and position; evaluation sees each token once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from s15erav3.data.order import Order
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import TokenFiles
from s15erav3.data.windows import EvaluationBatches, EvaluationWindows, TrainingPositions, TrainingWindows


def counting(n: int) -> np.ndarray:
    """Tokens that tell where they stand."""
    return np.arange(n, dtype=np.uint32 if n > 2**16 else np.uint16)


def window(tokens: np.ndarray, start: int, length: int) -> list[int]:
    return tokens[start : start + length + 1].tolist()


ORDERS = st.sampled_from(["stored", "computed"])
LENGTHS = st.integers(2, 40).flatmap(lambda t: st.tuples(st.integers(2 * t, 12 * t), st.just(t)))


@given(lengths=LENGTHS, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6), order=ORDERS)
@example(lengths=(4, 2), seed=0, epoch=0, order="computed")
@example(lengths=(80, 40), seed=1, epoch=3, order="stored")
@example(lengths=(119, 40), seed=1, epoch=3, order="stored")
def test_an_epoch_holds_each_window_once(lengths: tuple[int, int], seed: int, epoch: int, order: Order) -> None:
    """Prevents windows past the end of the tokens, left out, doubled, or with targets not shifted by one."""
    n, length = lengths
    tokens = counting(n)
    windows = TrainingWindows(tokens, length, seed, order)
    per_epoch = windows.windows_per_epoch
    assert per_epoch == (n - length) // length >= 1
    items = [windows[epoch * per_epoch + i] for i in range(per_epoch)]
    assert all(item.shape == (length + 1,) and item.dtype == torch.int64 for item in items)
    starts = sorted(int(item[0]) for item in items)
    assert [item.tolist() for item in items] == [window(tokens, int(item[0]), length) for item in items]
    assert 0 <= starts[0] < length
    assert starts == [starts[0] + i * length for i in range(per_epoch)]
    assert starts[-1] + length < n


def test_training_reaches_every_phase() -> None:
    """Prevents window borders that never move, so that some pairs of tokens are never seen together."""
    windows = TrainingWindows(counting(100), 8, seed=3)
    per_epoch = windows.windows_per_epoch
    first = [min(int(windows[e * per_epoch + i][0]) for i in range(per_epoch)) for e in range(100)]
    assert set(first) == set(range(8))


def test_each_epoch_has_an_order_of_its_own() -> None:
    """Prevents the same order, and the same order with other borders, in every epoch."""
    windows = TrainingWindows(counting(2000), 16, seed=3)
    per_epoch = windows.windows_per_epoch
    epochs = [[int(windows[e * per_epoch + i][0]) // 16 for i in range(per_epoch)] for e in range(5)]
    assert all(epoch != sorted(epoch) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 5
    assert np.mean(np.array(epochs[0]) == np.array(epochs[1])) < 0.1


@pytest.mark.parametrize("seed", [4, 5])
def test_seed_decides_the_order(seed: int) -> None:
    """Prevents runs of another seed from seeing the same data in the same order."""
    tokens = counting(2000)
    one, other = TrainingWindows(tokens, 16, seed), TrainingWindows(tokens, 16, 3)
    assert [one[p].tolist() for p in range(30)] != [other[p].tolist() for p in range(30)]


@given(
    lengths=LENGTHS,
    seed=st.integers(0, 100),
    positions=st.lists(st.integers(0, 500), min_size=1, max_size=20),
    order=ORDERS,
)
def test_an_item_depends_on_its_position_alone(
    lengths: tuple[int, int], seed: int, positions: list[int], order: Order
) -> None:
    """Prevents items that depend on what was asked for before, or together: a resumed run would see other data."""
    tokens = counting(lengths[0])
    asked = TrainingWindows(tokens, lengths[1], seed, order)
    together = asked.__getitems__(positions)
    for position, window in zip(positions, together, strict=True):
        fresh = TrainingWindows(tokens, lengths[1], seed, order)
        assert torch.equal(asked[position], fresh[position])
        assert torch.equal(window, fresh[position])


@pytest.mark.parametrize(
    ("order", "starts"),
    [(None, [119, 167, 87, 120, 40, 151]), ("computed", [135, 103, 7, 72, 8, 151])],
    ids=["usual", "computed"],
)
def test_order_stays_as_it_is(order: Order | None, starts: list[int]) -> None:
    """Prevents a change of the order that makes checkpoints of earlier versions go on with other data."""
    windows = TrainingWindows(counting(200), 16, seed=1, order=order)
    assert [int(windows[p][0]) for p in (0, 1, 2, 11, 12, 1000)] == starts


def batches(start: int, count: int, workers: int, rank: int = 0, world_size: int = 1) -> list[Tensor]:
    loader = DataLoader(
        TrainingWindows(counting(500), 16, seed=7),
        batch_sampler=TrainingPositions(4, start, rank, world_size),
        num_workers=workers,
    )
    return list(itertools.islice(loader, count))


def test_workers_change_nothing() -> None:
    """Prevents data that depends on the number of workers or on what they fetched ahead, across epochs too."""
    alone = batches(0, 20, workers=0)
    assert alone[0].shape == (4, 17)
    assert torch.equal(torch.stack(alone), torch.stack(batches(0, 20, workers=2)))


@pytest.mark.parametrize("start", [4, 28, 30, 31, 60])
def test_starting_in_the_middle_continues(start: int) -> None:
    """Prevents a resumed run from repeating or leaving out windows, within an epoch and at its border."""
    everything = torch.cat(batches(0, 30, workers=0))
    rest = torch.cat(batches(start, 10, workers=0))
    assert torch.equal(everything[start : start + len(rest)], rest)


@given(
    size=st.integers(1, 8),
    start=st.integers(0, 1000),
    world=st.integers(1, 5),
    steps=st.integers(1, 6),
)
def test_ranks_share_out_the_positions(size: int, start: int, world: int, steps: int) -> None:
    """Prevents two ranks from training on the same windows, or windows that no rank takes."""
    of_rank = [list(itertools.islice(TrainingPositions(size, start, rank, world), steps)) for rank in range(world)]
    assert all(len(batch) == size for taken in of_rank for batch in taken)
    for step in range(steps):
        together = [p for taken in of_rank for p in taken[step]]
        first = start + step * size * world
        assert together == list(range(first, first + size * world))


@given(
    n=st.integers(2, 300),
    length=st.integers(1, 40),
    size=st.integers(1, 9),
    world=st.integers(1, 4),
)
@example(n=2, length=40, size=9, world=4)
@example(n=41, length=10, size=4, world=1)
@example(n=42, length=10, size=4, world=2)
@example(n=40, length=10, size=2, world=1)
def test_evaluation_sees_every_target_once(n: int, length: int, size: int, world: int) -> None:
    """Prevents tokens left out, counted twice or padded, on any number of ranks."""
    windows = EvaluationWindows(counting(n), length)
    samplers = [EvaluationBatches(windows, size, rank, world) for rank in range(world)]
    targets, short = [], 0
    for sampler in samplers:
        taken = list(sampler)
        assert len(taken) == len(sampler)
        assert list(sampler) == taken, "a second validation sees the same"
        for indices in taken:
            if not indices:
                continue
            batch = default_collate([windows[i] for i in indices])  # fails on windows of different lengths
            assert batch.dtype == torch.int64
            assert 1 <= len(batch) <= size
            assert torch.equal(batch[:, 1:], batch[:, :-1] + 1), "targets are inputs shifted by one"
            targets += batch[:, 1:].flatten().tolist()
            if batch.shape[1] != length + 1:
                short += 1
                assert len(batch) == 1
                assert 2 <= batch.shape[1] < length + 1
                assert indices == [len(windows) - 1]
    assert sorted(targets) == list(range(1, n)), "every token but the first is a target once"
    assert short == ((n - 1) % length > 0)
    assert len({len(s) for s in samplers}) == 1, "ranks wait for each other at every batch"
    assert all(len(indices) for s in samplers for indices in list(s)[:-1]), "only the last turn may be empty"


def test_evaluation_batches_are_full() -> None:
    """Prevents needlessly many small batches: only the last full one and the short one are smaller."""
    windows = EvaluationWindows(counting(10 * 11 + 4), 10)
    assert list(EvaluationBatches(windows, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10], [11]]
    assert list(EvaluationBatches(windows, 4, 1, 2)) == [[4, 5, 6, 7], [11]]
    assert [list(EvaluationBatches(windows, 4, rank, 6)) for rank in (3, 4, 5)] == [[[11]], [[]], [[]]]


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (3, 3), (9, 4), (0.5, 2), (0.1, 1), (1.0, 4)])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_a_limit_is_of_all_ranks_together(limit: float, kept: int, world: int) -> None:
    """Prevents more of the text from being seen because there are more ranks."""
    windows = EvaluationWindows(counting(10 * 11 + 4), 10)
    ranks = [list(EvaluationBatches(windows, 4, rank, world, limit)) for rank in range(world)]
    turns = [batch for turn in zip(*ranks, strict=True) for batch in turn]
    assert turns[:kept] == list(EvaluationBatches(windows, 4))[:kept]
    assert not any(turns[kept:])


@pytest.mark.parametrize("length", [32, 256, 100_000])
def test_targets_of_a_split_have_its_bytes(sample_tokens: TokenFiles, vocabulary: Tokenizer, length: int) -> None:
    """Prevents wrong bits per byte: the bytes of all targets are the bytes of the split's text."""
    lengths = torch.from_numpy(vocabulary.byte_lengths)
    for part, counts in sample_tokens.parts.items():
        windows = EvaluationWindows(sample_tokens.part(part), length)
        loader = DataLoader(windows, batch_sampler=EvaluationBatches(windows, 8))
        targets = [batch[:, 1:] for batch in loader]
        assert sum(int(lengths[t].sum()) for t in targets) == counts["bytes"]
        assert sum(t.numel() for t in targets) == counts["tokens"] - 1


def test_windows_do_not_write_to_the_tokens(sample_tokens: TokenFiles) -> None:
    """Prevents a batch that is changed in place from changing the tokens on disk."""
    tokens = sample_tokens.part("val")
    before = np.array(tokens[:100])
    for windows in (TrainingWindows(tokens, 8, 0), EvaluationWindows(tokens, 8)):
        windows[0].fill_(0)
    assert np.array_equal(tokens[:100], before)
