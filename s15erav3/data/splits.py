"""Split of documents into training, validation and test parts."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from s15erav3.data.corpus import Document
from s15erav3.errors import UserError

Split = Literal["train", "val", "test"]
Part = Split | Literal["all"]
Sides = npt.NDArray[np.uint8]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def assign_splits(
    documents: Iterable[Document], *, seed: int, val_fraction: float, test_fraction: float
) -> list[Split]:
    """Decide the split of every document.

    Documents that share any content are first grouped into ties, so that no commentary occurs on both sides of a
    split. Ties are shuffled by ``seed`` and fill validation, then test, up to their fractions of the bytes; the rest
    is for training. Validation and test each get between half and twice the requested bytes, or a single larger tie;
    training gets at least half of its share.

    Raises:
        UserError: no such split exists.
    """
    tie_bytes, member = _ties(documents)
    wanted: dict[Split, float] = {"val": val_fraction, "test": test_fraction}
    fractions = {part: fraction for part, fraction in wanted.items() if fraction}
    sides = _divide(tie_bytes, fractions, seed) if len(tie_bytes) and fractions else None
    if sides is None:
        raise UserError(_refusal(tie_bytes, fractions))
    return [SPLITS[side] for side in sides[member]]


def _ties(documents: Iterable[Document]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the bytes of each tie, and the tie of each document. Some 90 bytes of memory per document."""
    digests, holders, sizes = bytearray(), array("q"), array("q")
    for i, document in enumerate(documents):
        sizes.append(len(document.text.encode()))
        for content in document.contents:
            digests += hashlib.blake2b(content.encode(), digest_size=8).digest()
            holders.append(i)
    hashes, holder = np.frombuffer(digests, dtype=np.uint64), np.frombuffer(holders, dtype=np.int64)
    values, counts = np.unique(hashes, return_counts=True)
    values = values[counts > 1]
    repeated = np.searchsorted(values, hashes) < np.searchsorted(values, hashes, side="right")
    hashes, holder = hashes[repeated], holder[repeated]
    _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    owner = holder[first[number]]  # the first document with the same content
    parent = array("q", range(len(sizes)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in zip(holder.tolist(), owner.tolist(), strict=True):
        parent[root(i)] = root(j)
    roots = np.frombuffer(parent, dtype=np.int64)
    while not np.array_equal(roots, above := roots[roots]):
        roots = above
    number_of_root = np.cumsum(roots == np.arange(len(roots))) - 1
    member = number_of_root[roots]
    return np.bincount(member, weights=sizes).astype(np.float64), member


def _divide(tie_bytes: npt.NDArray[np.float64], fractions: dict[Split, float], seed: int) -> Sides | None:
    """Return the split of each tie, or ``None`` if none is found."""
    draw = np.random.default_rng(seed)
    scale = 1.0
    for _ in range(2 + 10_000 // len(tie_bytes)):  # with few documents not every order works
        sides = _fill(tie_bytes, draw.permutation(len(tie_bytes)), fractions, scale)
        if sides is not None:
            return sides
        scale = 0.5  # the guaranteed minimum
    return None


def _fill(
    tie_bytes: npt.NDArray[np.float64], order: npt.NDArray[np.int64], fractions: dict[Split, float], scale: float
) -> Sides | None:
    """Return the split of each tie when parts are filled in order up to ``scale`` of their fractions."""
    sides = np.zeros(len(tie_bytes), dtype=np.uint8)
    total = float(tie_bytes.sum())
    left, drawn, goal = order, 0.0, 0.0
    for part, fraction in fractions.items():
        asked, size, taken = fraction * total, 0.0, []
        goal += scale * fraction
        for tie in left:
            if drawn / total >= goal and size >= asked / 2:  # an overshoot of the previous part counts here
                break
            if size + tie_bytes[tie] <= 2 * asked:
                taken.append(tie)
                size += tie_bytes[tie]
                drawn += tie_bytes[tie]
        if size < asked / 2:
            alone = left[tie_bytes[left] >= asked / 2]
            taken = [alone[tie_bytes[alone].argmin()]] if len(alone) else []
            drawn += sum(tie_bytes[tie] for tie in taken) - size
        if not taken:
            return None
        sides[taken] = SPLITS.index(part)
        left = left[sides[left] == 0]
    return sides if len(left) and tie_bytes[left].sum() >= (1 - sum(fractions.values())) / 2 * total else None


def _refusal(tie_bytes: npt.NDArray[np.float64], fractions: dict[Split, float]) -> str:
    count, largest = len(tie_bytes), float(tie_bytes.max() / tie_bytes.sum()) if len(tie_bytes) else 1.0
    asked = ", ".join(f"data.{part}_fraction={fraction}" for part, fraction in fractions.items())
    said, remedy = "", ""
    if count > len(fractions):
        said = f", the largest with {largest:.1%} of the text"
        change = "lower" if largest > 1 - sum(fractions.values()) else "raise"
        remedy = f", or {change} these fractions"
    return (
        f"the corpus has {count:,} independent documents{said}, too few for {asked}; give more text, "
        f"separate documents by blank lines (with data.document=blank_line){remedy}."
    )
