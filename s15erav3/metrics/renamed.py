"""Metrics that were once called otherwise, so that the files of older runs are read by today's names.

Until version 0.2 some figures of a step had no suffix, and ``perf/tokens_per_second`` was over the whole run in
``result.json`` and since the row before in ``metrics.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

FORMER = {
    "balance/maxvio_floor": "balance/maxvio_floor_batch",
    "balance/entropy": "balance/entropy_batch",
    "balance/cv": "balance/cv_batch",
    "balance/gini": "balance/gini_batch",
    "balance/dead_experts": "balance/dead_experts_batch",
    "balance/drop_rate": "balance/drop_rate_batch",
}
"""In training rows, and from them in results, progress and checkpoints."""

FORMER_LAYER = re.compile(r"(layer_\d+/maxvio)")

FORMER_RESULT = {
    "perf/tokens_per_second": "perf/tokens_per_second_overall",
    "perf/mfu": "perf/mfu_overall",
}
"""In ``result.json`` alone."""


def present_name(name: str) -> str:
    """Today's name of a metric that a training row had under ``name``."""
    layer = FORMER_LAYER.fullmatch(name)
    return f"{layer[1]}_batch" if layer else FORMER.get(name, name)


def former_names(names: Iterable[str]) -> list[str]:
    """``names``, and what they were called before."""
    before = {new: old for old, new in FORMER.items()}
    wanted = list(names)
    old = [before.get(name, name.removesuffix("_batch") if name.startswith("layer_") else name) for name in wanted]
    return list(dict.fromkeys([*wanted, *old]))


def present_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row, or what was taken from one, by today's names; where it has a figure by both, today's holds."""
    found = {present_name(name): value for name, value in row.items()}
    return found | {name: row[name] for name in found if name in row}


def present_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """``result.json`` by today's names."""
    return {FORMER_RESULT.get(name, name): value for name, value in present_names(result).items()}
