"""``baselines.json``: bits per byte of n-gram models and compressors, beside a run (``scripts/ngram_baseline.py``)."""

from __future__ import annotations

import json
from pathlib import Path


def baselines(folder: Path) -> str:
    """Describe the baselines of a run's folder in one line; empty if there are none or the file is unusable."""
    try:
        record = json.loads((folder / "baselines.json").read_text())
        each = ", ".join(f"{name} {float(bpb):.4f}" for name, bpb in record["bpb"].items())
        return f"{each} ({record['split']}, fitted on {int(record['train_tokens']):,} tokens)" if each else ""
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
