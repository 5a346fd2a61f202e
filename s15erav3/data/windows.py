"""Windows of T + 1 tokens: in a stateless shuffled order for training, in the order of the text for evaluation.

A window gives T inputs and T targets, shifted by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from s15erav3.data.order import Order, draw_order, usual_order
from s15erav3.data.tokens import Tokens


class TrainingWindows(Dataset[Tensor]):
    """The infinite sequence of training windows: item ``p`` depends only on ``seed``, ``order`` and ``p``.

    Position p is window ``p % n`` of epoch ``p // n``. Each epoch draws a phase, which shifts all window
    borders, and a permutation of the n windows. There is no state, so a run resumed at p continues exactly,
    and the number of workers and their prefetching do not matter.

    Args:
        tokens: at least 2 T long.
        length: T.
        order: how the permutation is kept; ``None`` decides by n, see :func:`~s15erav3.data.order.usual_order`.
    """

    def __init__(self, tokens: Tokens, length: int, seed: int, order: Order | None = None) -> None:
        self.tokens, self.length, self.seed = tokens, length, seed
        self.windows_per_epoch = (len(tokens) - length) // length
        self.order = order or usual_order(self.windows_per_epoch)
        self._epoch = -1

    def __getitem__(self, position: int) -> Tensor:
        """Window at ``position``: int64, (T + 1,)."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[Tensor]:
        """Windows at ``positions``, as the loader requests them: each int64, (T + 1,)."""
        epochs, places = np.divmod(positions, self.windows_per_epoch)
        starts = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            self._enter(epoch)
            here = epochs == epoch
            starts[here] = self._phase + self._order[places[here]] * self.length
        return [self._window(start) for start in starts.tolist()]

    def _enter(self, epoch: int) -> None:
        if epoch != self._epoch:
            draw = np.random.default_rng((self.seed, epoch))
            self._phase = int(draw.integers(self.length))
            self._order = draw_order(self.order, draw, self.windows_per_epoch)
            self._epoch = epoch

    def _window(self, start: int) -> Tensor:
        return torch.from_numpy(self.tokens[start : start + self.length + 1].astype(np.int64))


class TrainingPositions(Sampler[list[int]]):
    """Infinite steps of consecutive positions from ``start``; rank r of W takes the r-th share of each.

    Args:
        windows_per_step: positions per rank and step.
    """

    def __init__(self, windows_per_step: int, start: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.windows_per_step, self.start = windows_per_step, start
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start + self.rank * self.windows_per_step
        while True:
            yield list(range(first, first + self.windows_per_step))
            first += self.windows_per_step * self.world_size


class EvaluationWindows(Dataset[Tensor]):
    """Windows that start every ``stride`` tokens, by default without common targets; the last one can be shorter."""

    def __init__(self, tokens: Tokens, length: int, stride: int | None = None) -> None:
        """``tokens`` (at least 2 long), ``length`` T, ``stride`` from 1 to T, ``None`` for T."""
        self.tokens, self.length, self.stride = tokens, length, stride or length
        self.targets = len(tokens) - 1

    @property
    def full(self) -> int:
        """Number of windows with T targets."""
        return max(0, self.targets - self.length + self.stride) // self.stride

    def __len__(self) -> int:
        return 1 + max(0, -(-(self.targets - self.length) // self.stride))

    def __getitem__(self, index: int) -> Tensor:
        """Window ``index``: int64, (T + 1,) or shorter at the end."""
        start = index * self.stride
        return torch.from_numpy(self.tokens[start : start + self.length + 1].astype(np.int64))


class EvaluationBatches(Sampler[list[int]]):
    """Batches of full windows, then the shorter last window as its own batch.

    There is no padding, so none is routed or counted. Ranks take batches in turn, each batch once, with the same
    number of turns: a rank without a batch left takes an empty one.

    Args:
        limit: maximum batches over all ranks; a fraction is relative to all batches, at least one.
    """

    def __init__(
        self,
        windows: EvaluationWindows,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        limit: int | float = 1.0,
    ) -> None:
        full = windows.full
        batches = [list(range(i, min(i + batch_size, full))) for i in range(0, full, batch_size)]
        if len(windows) > full:
            batches.append([full])
        batches = batches[: limit if isinstance(limit, int) else max(1, int(limit * len(batches)))]
        turns = -(-len(batches) // world_size)
        batches += [[] for _ in range(turns * world_size - len(batches))]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
