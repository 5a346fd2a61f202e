"""N-gram baselines: probabilities by hand, that sum to one, and a run's own file."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import train

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from ngram_baseline import discounts, probabilities  # noqa: E402


def test_a_bigram_by_hand() -> None:
    """Bigrams of 0 1 0 2 0 1 are 01, 10, 02, 20, 01, at a discount of 0.5 and V = 4.

    Continuation counts of 0, 1, 2 are 2, 1, 1, so p(1) = (1 - 0.5 + 1.5 / 4) / 4; after 0 stand 1 twice and 2 once.
    """
    p = probabilities(np.array([0, 1, 0, 2, 0, 1]), np.array([0, 1, 3]), 2, 4, discount=0.5)
    unigram = (0.5 + 1.5 / 4) / 4
    after_one = (0 + 0.5 * (1.5 / 4 / 4)) / 1  # only 0 follows 1, so 3 has the share that was discounted
    assert p == pytest.approx([(1.5 + 1.0 * unigram) / 3, after_one])


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("discount", [None, 0.75])
def test_probabilities_sum_to_one(order: int, discount: float | None) -> None:
    """After known and unknown contexts. Fails if the discounted mass is taken over tokens instead of types."""
    draw = np.random.default_rng(0)
    text = draw.zipf(1.5, 3000).astype(np.int64) % 13
    for context in ([*text[:4]], [12, 11, 12, 11], [*text[100:101]], [*draw.integers(0, 13, 9)]):
        p = [probabilities(text, np.array([*context, w]), order, 13, discount)[-1] for w in range(13)]
        assert min(p) > 0 and sum(p) == pytest.approx(1)


def test_discounts_by_hand() -> None:
    """n1 to n4 = 4, 2, 1, 1: Y = 0.5."""
    counts = np.array([0.0, 1, 1, 1, 1, 2, 2, 3, 4, 9])
    assert discounts(counts) == pytest.approx([0, 1 - 0.5, 2 - 0.75, 3 - 2])


@pytest.mark.slow
def test_a_run_gets_its_file(tmp_path: Path) -> None:
    """The script writes finite bits per byte next to the run; another place is refused in a sentence."""
    run = tmp_path / "run"
    assert train("trainer.max_steps=2", run_dir=run) == 0
    command = [sys.executable, str(ROOT / "scripts" / "ngram_baseline.py")]
    subprocess.run([*command, str(run), "--orders", "2", "3"], check=True, capture_output=True)
    found = json.loads((run / "baselines.json").read_text())
    assert {"2-gram", "3-gram", "xz"} <= found["bpb"].keys() and found["split"] == "val"
    assert all(math.isfinite(bpb) and 0 < bpb < 8 for bpb in found["bpb"].values())
    refused = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
