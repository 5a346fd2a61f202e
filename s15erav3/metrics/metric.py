"""Definition of a metric: its name, its unit, which way is better, where it is logged."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Better = Literal["lower", "higher", "neither"]
Place = Literal["train", "validation", "result", "evaluate"]

PLACES: dict[Place, str] = {
    "train": "a row of training: `metrics.csv` and the loggers, every `callbacks.telemetry.every_n_steps` steps",
    "validation": "a row of a validation: `metrics.csv` and the loggers, every `trainer.val_check_interval` steps",
    "result": "the end of a run: `result.json`, the summary in W&B, `compare`",
    "evaluate": "the JSON file of `evaluate`",
}
"""Where metrics are logged, in Markdown."""

PARTS = {
    "{layer}": r"\d{2,}",
    "{expert}": r"\d{2,}",
    "{domain}": r"\w+",
    "{end}": r"(?:top|bottom)\d+",
    "{quantile}": r"q\d{3}",
}
"""Patterns of the variable parts of a name."""


class Metric(NamedTuple):
    """One metric, or a family of metrics whose names differ in the parts in braces."""

    name: str
    """A name such as ``val/bpb``, or a pattern such as ``load_L{layer}/E{expert}``."""
    unit: str
    """``1`` for a ratio without a unit."""
    better: Better
    """``neither`` where neither more nor less is better by itself."""
    where: tuple[Place, ...]
    says: str
    """Definition in one sentence."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """Pattern that matches each of its names as a whole."""
        parts = re.split(r"(\{\w+\})", self.name)
        return re.compile("".join(PARTS.get(part, re.escape(part)) for part in parts))
