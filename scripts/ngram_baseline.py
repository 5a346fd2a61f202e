"""What a language model has to beat: n-gram models and compressors fitted on a run's own training part.

    python scripts/ngram_baseline.py RUN_DIR [--split test] [--train-tokens 409600]

Interpolated modified Kneser-Ney (Chen and Goodman 1998, TR-10-98, equations 22 to 26), orders 2 to 5, on the run's
tokens, and byte-level compressors given the training text: bits per byte, printed and written to
``RUN_DIR/baselines.json``.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt

from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.tokens import texts_of
from s15erav3.errors import UserError
from s15erav3.files import replace_text
from s15erav3.loading import load

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def gram_ids(tokens: Ids, order: int, vocabulary: int) -> list[Ids]:
    """Number the n-grams that end at each position: ``order + 1`` arrays (N,), for n from 0.

    Equal n-grams have equal numbers. Positions before n - 1 have no n-gram; their numbers are not used.
    """
    found = [np.zeros(len(tokens), dtype=np.int64)]
    for _ in range(order):
        before = np.concatenate([[0], found[-1][:-1]])
        found.append(np.unique(before * vocabulary + tokens, return_inverse=True)[1].astype(np.int64))
    return found


def discounts(counts: Floats) -> Floats:
    """Discounts for counts 0, 1, 2 and above, equation 26; 0.75 where the counts of counts do not determine them."""
    n1, n2, n3, n4 = (float((counts == c).sum()) for c in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        return np.array([0, 0.75, 0.75, 0.75])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(found, 0, [0, 1, 2, 3])


def probabilities(train: Ids, text: Ids, order: int, vocabulary: int, discount: float | None = None) -> Floats:
    """Probability of each token of ``text`` after its first, given the tokens of ``text`` before it: (len(text) - 1,).

    Args:
        train, text: token ids below ``vocabulary``.
        discount: a fixed one for all counts; ``None`` estimates three per order.
    """
    n = len(train)
    ids = gram_ids(np.concatenate([train, text]), order, vocabulary)
    at = np.arange(n + 1, n + len(text))
    p: Floats = np.full(len(at), 1 / vocabulary)
    for m in range(1, order + 1):
        ends = np.arange(m - 1, n)  # of the m-grams of the training part
        types, first = np.unique(ids[m][ends], return_index=True)
        last = ends[first]  # an occurrence of each type
        counts: Floats = np.zeros(ids[m].max() + 1)
        if m == order:
            counts[:] = np.bincount(ids[m][ends], minlength=len(counts))
        else:  # distinct tokens before it
            longer = np.arange(m, n)
            once = longer[np.unique(ids[m + 1][longer], return_index=True)[1]]
            counts[:] = np.bincount(ids[m][once], minlength=len(counts))
        by_count = discounts(counts) if discount is None else np.array([0, *[discount] * 3])
        off = by_count[np.minimum(counts, 3).astype(np.int64)]
        context = ids[m - 1][last - 1] if m > 1 else np.zeros(len(last), dtype=np.int64)
        size = int(ids[m - 1].max()) + 1
        total = np.bincount(context, weights=counts[types], minlength=size)
        mass = np.bincount(context, weights=off[types], minlength=size)
        its, own = ids[m - 1][at - 1], ids[m][at]
        known = (total[its] > 0) & (at - n >= m - 1)
        safe = np.where(known, total[its], 1)
        p = np.where(known, (counts[own] - off[own] + mass[its] * p) / safe, p)
    return p


def compressors() -> dict[str, Callable[[bytes], int]]:
    """Compressed size in bytes by each installed compressor at its strongest setting."""
    found: dict[str, Callable[[bytes], int]] = {
        "xz": lambda data: len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    }
    try:
        zstd = import_module("zstandard")
        found["zstd"] = lambda data: len(zstd.ZstdCompressor(level=22).compress(data))
    except ImportError:
        print("zstd is left out: pip install zstandard")
    try:
        ppmd = import_module("pyppmd")
        found["ppmd"] = lambda data: len(ppmd.compress(data, max_order=10, mem_size=256 << 20))
    except ImportError:
        print("ppmd is left out: pip install pyppmd")
    return found


def baselines(data: CommentaryData, split: str, orders: list[int], train_tokens: int | None) -> dict[str, float]:
    """Bits per byte of a part by each model; compressors see the text of the whole training part."""
    assert split in ("val", "test")
    train = data.token_files.part("train")[:train_tokens].astype(np.int64)
    text = data.token_files.part("val" if split == "val" else "test").astype(np.int64)
    size = int(data.tokenizer.byte_lengths[text[1:]].sum())
    found = {}
    for order in orders:
        p = probabilities(train, text, order, data.tokenizer.n_vocab)
        found[f"{order}-gram"] = -float(np.log2(p).sum()) / size
    if train_tokens is None:
        before, after = (
            "".join(texts_of(data.corpus(), data.plan, part)).encode()
            for part in ("train", "val" if split == "val" else "test")
        )
        for name, measure in compressors().items():
            found[name] = 8 * (measure(before + after) - measure(before)) / len(after)
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder, or a checkpoint in it")
    parser.add_argument("--split", choices=["val", "test"], default="val")
    parser.add_argument("--orders", type=int, nargs="+", choices=range(1, 9), default=[2, 3, 4, 5])
    parser.add_argument("--train-tokens", type=int, help="only the first tokens of the training part; no compressors")
    asked = parser.parse_args()
    try:
        saved = load(asked.run)
        own = {key: value for key, value in saved.config["data"].items() if key != "max_epochs"}
        data = CommentaryData(tokenizer=saved.tokenizer, **own).prepare()
    except UserError as error:
        parser.exit(2, f"{error}\n")
    found = baselines(data, asked.split, asked.orders, asked.train_tokens)
    assert all(math.isfinite(bpb) for bpb in found.values())
    tokens = asked.train_tokens or data.token_files.parts["train"]["tokens"]
    for name, bpb in found.items():
        print(f"{name:7} {bpb:.4f} bits per byte")
    folder = Path(asked.run) if Path(asked.run).is_dir() else saved.file.parent.parent
    record = {"split": asked.split, "train_tokens": tokens, "bpb": found}
    replace_text(folder / "baselines.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
