"""A run's name and tags in loggers, derived from the settings in its folder."""

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
"""Roles of settings left out of names: they do not affect what is learned, or are too long."""
SAID = ("experts", "balancing", "seed", "rounding")
"""Settings with a fixed position in a name."""
MOST = 4
"""Maximum number of other settings in a name; of further ones only the count is shown."""


def choices(run_dir: Path) -> dict[str, str]:
    """Return the choice of each of the program's groups, as ``{"experts": "e16"}``, from ``.hydra/hydra.yaml``.

    It is empty for a folder without that file. Hydra's own groups are left out.
    """
    found = _hydra(run_dir / ".hydra" / "hydra.yaml").get("runtime", {}).get("choices") or {}
    return {group: str(choice) for group, choice in found.items() if choice and not group.startswith("hydra/")}


def tags(chosen: Mapping[str, str], more: list[str]) -> list[str]:
    """Return ``experts=e16`` and so on, then the user's own tags; each is at most 64 characters long, W&B's limit."""
    said = [f"{group}={chosen[group]}" for group in TAGGED if group in chosen]
    return [tag[:64] for tag in dict.fromkeys([*said, *more])]


def run_name(run_dir: Path, chosen: Mapping[str, str]) -> str | None:
    """Return a name that distinguishes a run from its neighbours, as ``e16 loss_free lr=0.002 s1``.

    It has the experts, the balancing, the other given settings (in a sweep those that vary in it) and the seed. It is
    ``None`` for a folder without settings.
    """
    overrides = _hydra(run_dir / ".hydra" / "hydra.yaml").get("overrides", {}).get("task") or []
    given = {key_of(override): value_of(override) for override in overrides}
    varied = _varied(run_dir.parent / "multirun.yaml")
    words: list[str] = []
    for key, value in given.items():
        if key not in SAID and key != "callbacks" and role(key) not in UNSAID and (varied is None or key in varied):
            words.append(value if key in chosen else f"{key.rpartition('.')[2]}={value}")
    few = [f"+{len(words) - MOST}"] if len(words) > MOST else []
    first = [chosen[group] for group in SAID if group in chosen]
    last = [f"{key[0]}{given[key]}" for key in ("seed", "rounding") if key in given]
    return " ".join([*first, *words[:MOST], *few, *last])[:128] or None


def _varied(file: Path) -> set[str] | None:
    """Return the settings that vary within a sweep, from its ``multirun.yaml``; ``None`` for a run outside a sweep."""
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
