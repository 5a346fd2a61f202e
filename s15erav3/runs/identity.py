"""What each setting affects, and so whether two runs are the same: used by sweeps, comparisons and resuming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

from s15erav3.cli.overrides import leaves
from s15erav3.files import at_home

Role = Literal["place", "watching", "seed", "rounding", "length", "machine", "file", "architecture", "learning"]

ROLES: dict[str, Role] = {
    # where a run is, and how it was started
    **dict.fromkeys(("run_dir", "resume", "force", "sweep", "hydra"), "place"),
    **dict.fromkeys(("threads", "trainer.threads"), "place"),  # the results are the same up to rounding
    # how it is monitored
    **dict.fromkeys(("report", "logger", "callbacks.telemetry", "callbacks.samples"), "watching"),
    **dict.fromkeys(("callbacks.progress", "callbacks.checkpoint", "callbacks.media"), "watching"),
    "data.prompts": "watching",
    "seed": "seed",
    "rounding": "rounding",
    # how long it trains; other callbacks may stop it early
    **dict.fromkeys(("trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "data.max_epochs"), "length"),
    **dict.fromkeys(("trainer.val_check_interval", "callbacks"), "length"),
    # how it is computed, with the same result
    **dict.fromkeys(
        ("compile", "activation_checkpointing", "loss_chunk", "data.eval_batch_size", "data.num_workers"), "machine"
    ),
    **dict.fromkeys(("trainer.skip_nonfinite", "trainer.rank_timeout"), "machine"),
    **dict.fromkeys(("trainer.strategy", "trainer.replicas"), "machine"),
    # files, which are compared by content
    **dict.fromkeys(("data.path", "init_from"), "file"),
    # what the weights were trained for, or the unit of the position in the data
    **dict.fromkeys(("model", "experts", "tokenizer", "data.sequence_length", "data.vocab_size"), "architecture"),
    **dict.fromkeys(("data.name", "data.document"), "architecture"),
    # settings of the model that do not affect existing weights
    **dict.fromkeys(("model.max_position_embeddings", "model.initializer_range"), "machine"),
}
"""Roles of dotted keys and everything below them; the longest match applies. All other keys affect learning."""

Kind = Literal["harmless", "experiment", "wrong"]
KINDS: dict[Role, Kind] = {"architecture": "wrong", "learning": "experiment", "seed": "experiment"}
"""What a changed setting means for a resumed run, by role; for other roles it is harmless."""

ADOPTED = ("model", "experts", "tokenizer")
"""Groups that ``init_from`` overwrites in a run's saved config."""


@cache
def role(key: str) -> Role:
    """Return the role of a dotted key or a group (``logger``, ``hydra/launcher``)."""
    parts = key.replace("/", ".").split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((ROLES[name] for name in names if name in ROLES), "learning")


class Change(NamedTuple):
    """A setting that differs."""

    key: str
    before: Any
    now: Any
    kind: Kind

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return the changes of a resumed run: settings in both (resolved) configs with different values."""
    before, after = dict(leaves(saved)), dict(leaves(now))
    return [
        Change(key, before[key], after[key], KINDS.get(role(key), "harmless"))
        for key in sorted(before.keys() & after.keys())
        if before[key] != after[key]
    ]


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield ``key=saved, here key=now`` for each setting in which a sweep's job differs from the run in its folder."""
    old, new = _of_a_run(saved), _of_a_run(now)
    for key in sorted(old.keys() | new.keys()):
        there, here = (f"{key}={found[key]}" if key in found else f"no {key}" for found in (old, new))
        if there != here and old.get(key) != new.get(key):
            yield f"{there}, here {here}"


def _of_a_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, without those of its place and its monitoring."""
    adopted = ADOPTED if config.get("init_from") else ()
    flat = dict(leaves({key: value for key, value in config.items() if key not in adopted}))
    flat = {key: value for key, value in flat.items() if role(key) not in ("place", "watching")}
    for key in ("init_from", "data.path"):  # a resumed run has saved them as absolute paths
        if flat.get(key):
            flat[key] = str(at_home(str(flat[key])).absolute())
    return flat


def is_repeated(key: str) -> bool:
    """Return whether runs that differ only in this setting are repetitions of each other."""
    return role(key) in ("place", "watching", "seed", "rounding")
