"""What a resumed run does otherwise than its checkpoint: harmless, another experiment, or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from s15erav3.overrides import leaves

Kind = Literal["harmless", "experiment", "wrong"]

HARMLESS = (
    *("run_dir", "resume", "init_from", "report", "force", "sweep", "logger", "callbacks", "compile", "loss_chunk"),
    *("trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "trainer.val_check_interval", "data.max_epochs"),
    *(
        "data.path",
        "data.prompts",
        "data.eval_batch_size",
        "data.num_workers",
        "trainer.skip_nonfinite",
        "trainer.rank_timeout",
    ),
)
"""Where a run is, how long it is and who looks at it; the text behind ``data.path`` is compared by its content."""

WRONG = ("model", "experts", "tokenizer", "data.sequence_length", "data.vocab_size", "data.name", "data.document")
"""What the weights were trained for, or what the position in the data counts in."""

MAY_CHANGE = ("model.max_position_embeddings", "model.initializer_range")
"""Of the model: what changes nothing in weights that are there."""


class Change(NamedTuple):
    """A setting that differs."""

    key: str
    before: Any
    now: Any
    kind: Kind

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Every setting that the checkpoint's config and the present one both have, with other values; resolved, both."""
    before, after = dict(leaves(saved)), dict(leaves(now))
    return [
        Change(k, before[k], after[k], _kind(k)) for k in sorted(before.keys() & after.keys()) if before[k] != after[k]
    ]


def _kind(key: str) -> Kind:
    if _below(key, MAY_CHANGE):
        return "harmless"
    if _below(key, WRONG):
        return "wrong"
    return "harmless" if _below(key, HARMLESS) else "experiment"


def _below(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(name + ".") for name in names)
