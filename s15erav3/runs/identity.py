"""What a setting decides, and so whether two runs are the same: the one answer for sweeps, comparisons and resuming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

from s15erav3.cli.overrides import leaves
from s15erav3.files import at_home

Role = Literal["place", "watching", "seed", "length", "machine", "file", "architecture", "learning"]

ROLES: dict[str, Role] = {
    # where a run is, and how it was started
    **dict.fromkeys(("run_dir", "resume", "force", "sweep", "hydra"), "place"),
    # who looks at it
    **dict.fromkeys(("report", "logger", "callbacks.telemetry", "callbacks.samples"), "watching"),
    **dict.fromkeys(("callbacks.progress", "callbacks.checkpoint", "callbacks.media"), "watching"),
    "seed": "seed",
    # how long it trains; other callbacks may stop it early
    **dict.fromkeys(("trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "data.max_epochs"), "length"),
    **dict.fromkeys(("trainer.val_check_interval", "callbacks"), "length"),
    # how it is computed, to the same result
    **dict.fromkeys(("compile", "loss_chunk", "data.eval_batch_size", "data.num_workers"), "machine"),
    **dict.fromkeys(("trainer.skip_nonfinite", "trainer.rank_timeout"), "machine"),
    # files that are compared by what they hold
    **dict.fromkeys(("data.path", "init_from"), "file"),
    # what the weights were trained for, or what the position in the data counts in
    **dict.fromkeys(("model", "experts", "tokenizer", "data.sequence_length", "data.vocab_size"), "architecture"),
    **dict.fromkeys(("data.name", "data.document"), "architecture"),
    # of the model, what changes nothing in weights that are there
    **dict.fromkeys(("model.max_position_embeddings", "model.initializer_range"), "machine"),
}
"""Of dotted keys and all that lies below them; the longest that fits decides. All others decide what is learned."""

Kind = Literal["harmless", "experiment", "wrong"]
KINDS: dict[Role, Kind] = {"architecture": "wrong", "learning": "experiment", "seed": "experiment"}
"""What a change of a setting means for a run that is resumed; of other roles it is harmless."""

ADOPTED = ("model", "experts", "tokenizer")
"""Groups that ``init_from`` overwrites in the config that a run saves."""


@cache
def role(key: str) -> Role:
    """What the setting of a dotted key, or a group (``logger``, ``hydra/launcher``), decides."""
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
    """What a resumed run changes: every setting that both configs have, with other values; resolved, both."""
    before, after = dict(leaves(saved)), dict(leaves(now))
    return [
        Change(key, before[key], after[key], KINDS.get(role(key), "harmless"))
        for key in sorted(before.keys() & after.keys())
        if before[key] != after[key]
    ]


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """``key=saved, here key=now`` for every setting by which a job of a sweep is not the run in its folder."""
    old, new = _of_a_run(saved), _of_a_run(now)
    for key in sorted(old.keys() | new.keys()):
        there, here = (f"{key}={found[key]}" if key in found else f"no {key}" for found in (old, new))
        if there != here and old.get(key) != new.get(key):
            yield f"{there}, here {here}"


def _of_a_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, whatever its place and its watchers."""
    adopted = ADOPTED if config.get("init_from") else ()
    flat = dict(leaves({key: value for key, value in config.items() if key not in adopted}))
    flat = {key: value for key, value in flat.items() if role(key) not in ("place", "watching")}
    for key in ("init_from", "data.path"):  # a resumed run has saved them as absolute paths
        if flat.get(key):
            flat[key] = str(at_home(str(flat[key])).absolute())
    return flat


def is_repeated(key: str) -> bool:
    """Whether runs that differ in this setting alone are repetitions of each other."""
    return role(key) in ("place", "watching", "seed")
