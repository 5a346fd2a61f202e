"""Time and memory of what grows with the text: tokenizing it, and the order of its training windows.

The text is the bundled sample, repeated with numbers, so that no paragraph occurs twice. Every measurement has a
process of its own, which may use as many cores as stated.

    python scripts/bench_data.py tokens [--megabytes 200] [--tokenizer gpt2] [--cores 1 2]
    python scripts/bench_data.py order [--windows 1e6 1e8]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import s15erav3
from s15erav3.data.corpus import Corpus
from s15erav3.data.order import draw_order
from s15erav3.data.tokenizer import load_public
from s15erav3.data.tokens import SplitPlan, corpus_tokenizer, texts_of, tokenize

SAMPLE = Path(s15erav3.__file__).parent / "data" / "sample" / "commentary.txt"
PLAN = SplitPlan(0, 0.01, 0.01)
BATCH = 32


def peak() -> float:
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def seconds(work: Callable[[], object]) -> float:
    """Duration of ``work``."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bench_tokens(file: str, tokenizer: str, cores: int) -> dict[str, float]:
    """Divide and encode a text without a cache."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    corpus = Corpus(Path(file), "text")
    megabytes = corpus.path.stat().st_size / 1e6
    with tempfile.TemporaryDirectory(dir=corpus.path.parent) as cache:
        os.environ["S15ERAV3_CACHE"] = cache
        row = {"cores": cores, "started_mb": peak()}
        row["split_s"] = seconds(lambda: next(texts_of(corpus, PLAN, "train")))
        row["split_peak_mb"] = peak()
        if tokenizer.isdecimal():
            start = time.perf_counter()
            encoding = corpus_tokenizer(corpus, PLAN, int(tokenizer))
            row["vocabulary_s"] = time.perf_counter() - start
        else:
            encoding = load_public(tokenizer)
        computed = time.process_time()
        row["encode_s"] = seconds(lambda: tokenize(corpus, encoding, PLAN))
        row["encode_cpu_s"] = time.process_time() - computed
        row["encode_mb_per_s"] = megabytes / row["encode_s"]
        row["encode_peak_mb"] = peak()
        row["again_s"] = seconds(lambda: tokenize(corpus, encoding, PLAN))
    return row


def bench_order(kind: str, windows: int) -> dict[str, float | str]:
    """Draw the order of an epoch and read batches from it."""
    before = peak()
    start = time.perf_counter()
    order = draw_order(kind, np.random.default_rng(0), windows)  # type: ignore[arg-type]
    drawn = time.perf_counter() - start
    batches = np.random.default_rng(1).integers(windows, size=(1000, BATCH))
    each = seconds(lambda: [order[batch] for batch in batches]) / len(batches)
    return {"order": kind, "windows": windows, "draw_s": drawn, "batch_us": each * 1e6, "added_mb": peak() - before}


def write_text(file: Path, megabytes: int) -> None:
    """Write numbered repeats of the sample."""
    text, copy = SAMPLE.read_text(), 0
    with file.open("w") as stream:
        while file.stat().st_size < megabytes * 1e6:
            stream.write(text.replace("\n\n", f"\n\n{copy} "))
            stream.flush()
            copy += 1


def alone(work: Callable[..., dict[str, float]], *arguments: object) -> None:
    """Measure in a fresh process and print."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row = pool.apply(work, arguments)
    print(json.dumps({name: round(v, 4 if v < 1 else 1) if isinstance(v, float) else v for name, v in row.items()}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="what", required=True)
    tokens = verbs.add_parser("tokens")
    tokens.add_argument("--megabytes", type=int, default=200)
    tokens.add_argument("--tokenizer", default="gpt2", help="a public encoding, or the size of a vocabulary to train")
    tokens.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    order = verbs.add_parser("order")
    order.add_argument("--windows", type=float, nargs="+", default=[1e6, 1e8])
    args = parser.parse_args()
    if args.what == "order":
        for windows in args.windows:
            for kind in ("stored", "computed"):
                alone(bench_order, kind, int(windows))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        write_text(file, args.megabytes)
        print(f"{file.stat().st_size / 1e6:,.0f} MB, tokenizer={args.tokenizer}")
        for cores in args.cores:
            alone(bench_tokens, str(file), args.tokenizer, cores)


if __name__ == "__main__":
    main()
