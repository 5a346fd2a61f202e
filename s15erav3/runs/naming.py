"""What a run is called elsewhere, and by which tags it is found: from what its folder says about its settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from s15erav3.cli.overrides import key_of, value_of
from s15erav3.runs.identity import role

TAGGED = ("model", "experts", "balancing", "optimizer", "schedule", "data", "tokenizer", "experiment")
"""Groups whose choice becomes a tag."""
UNSAID = ("place", "watching", "file")
"""Roles of settings that tell nothing about what is learned, or are too long to say."""
SAID = ("experts", "balancing", "seed")
"""Those that have a place of their own in a name."""
MOST = 4
"""Other settings in a name; of further ones only the number is told."""


def choices(run_dir: Path) -> dict[str, str]:
    """The choice of each of the program's groups, as ``{"experts": "e16"}``, from ``.hydra/hydra.yaml``; empty for a
    folder that has none. Those of Hydra itself are left out."""
    found = _hydra(run_dir / ".hydra" / "hydra.yaml").get("runtime", {}).get("choices") or {}
    return {group: str(choice) for group, choice in found.items() if choice and not group.startswith("hydra/")}


def tags(chosen: Mapping[str, str], more: list[str]) -> list[str]:
    """``experts=e16`` and so on, then the user's own; none longer than W&B's 64 characters."""
    said = [f"{group}={chosen[group]}" for group in TAGGED if group in chosen]
    return [tag[:64] for tag in dict.fromkeys([*said, *more])]


def run_name(run_dir: Path, chosen: Mapping[str, str]) -> str | None:
    """What tells a run from its neighbours, as ``e16 loss_free lr=0.002 s1``: experts, balancing, the other settings
    given (in a sweep those that vary in it), the seed. ``None`` for a folder that says nothing."""
    overrides = _hydra(run_dir / ".hydra" / "hydra.yaml").get("overrides", {}).get("task") or []
    given = {key_of(override): value_of(override) for override in overrides}
    varied = _varied(run_dir.parent / "multirun.yaml")
    words: list[str] = []
    for key, value in given.items():
        if key not in SAID and key != "callbacks" and role(key) not in UNSAID and (varied is None or key in varied):
            words.append(value if key in chosen else f"{key.rpartition('.')[2]}={value}")
    few = [f"+{len(words) - MOST}"] if len(words) > MOST else []
    first = [chosen[group] for group in SAID if group in chosen]
    last = [f"s{given['seed']}"] if "seed" in given else []
    return " ".join([*first, *words[:MOST], *few, *last])[:128] or None


def _varied(file: Path) -> set[str] | None:
    """Settings that differ between the runs of a sweep, from its ``multirun.yaml``; ``None`` for a run by itself."""
    if not file.is_file():
        return None
    hydra = _hydra(file)
    params = (hydra.get("sweeper") or {}).get("params") or {}
    given = {key_of(override): override for override in hydra.get("overrides", {}).get("task") or []}
    varied = {key for key, override in given.items() if set(value_of(override)) & {",", "("}}
    return varied | {key for key, value in params.items() if set(str(value)) & {",", "("}}


def _hydra(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    found: dict[str, Any] = yaml.safe_load(file.read_text())["hydra"]
    return found
