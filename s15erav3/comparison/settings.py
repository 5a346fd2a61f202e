"""Settings that distinguish the runs of a sweep."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from s15erav3.cli.overrides import leaves
from s15erav3.runs.identity import is_repeated
from s15erav3.runs.reader import Run, read_choices

ABSENT = "-"
"""Value for runs without the setting, such as a rate when the strategy has none."""

_MISSING = object()


def identity(config: dict[str, Any]) -> str:
    """Return a run's identity without seed, location and logging settings: equal texts for repetitions."""
    kept = {key: value for key, value in leaves(config) if not is_repeated(key)}
    return json.dumps(kept, sort_keys=True, default=str)


def settings(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return for each run the settings that differ among the runs, as text, all with the same keys.

    These are the settings that any command line overrides and whose values differ; a run without the override has its
    default. If two runs are equal in all these but have different configs (a default was edited in between), the
    differences between their configs are added.
    """
    said = dict.fromkeys(key for run in runs for key in run.overrides if not is_apart(key))
    columns = {key: [setting(run, key) for run in runs] for key in said}
    columns = {key: values for key, values in columns.items() if len(set(values)) > 1}
    alike: dict[tuple[str, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for i, run in enumerate(runs):
        alike[tuple(values[i] for values in columns.values())].setdefault(identity(run.config), run.config)
    hidden: dict[str, None] = {}
    for configs in alike.values():
        if len(configs) > 1:
            hidden |= dict.fromkeys(_differing(list(configs.values())))
    for key in hidden:
        columns.setdefault(key, [_text(_at(run.config, key)) for run in runs])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] or [{} for _ in runs]


def is_apart(key: str) -> bool:
    """Whether a group choice or setting does not distinguish runs; ``callbacks`` are checked one by one."""
    return key == "callbacks" or is_repeated(key)


def setting(run: Run, key: str) -> str:
    """Return a run's value of a dotted key, or its group choice, as text."""
    value = _MISSING if "/" in key else _at(run.config, key)
    is_group = "." not in key and (value is _MISSING or isinstance(value, dict) or key not in run.config)
    if not is_group:
        return _text(value)
    if key in run.overrides:
        return run.overrides[key]
    return read_choices(run.folder).get(key, ABSENT)


def natural(value: str) -> tuple[Any, ...]:
    """Sort key for natural order: absent values first, numbers by size, e8 before e16."""
    try:
        return (0 if value == ABSENT else 1, float(value), value)
    except ValueError:
        parts = re.split(r"(\d+)", value)
        return (0 if value == ABSENT else 2, 0.0, [(int(p), "") if p.isdigit() else (-1, p) for p in parts])


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    flat = [dict(leaves(config)) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    return [
        key
        for key in keys
        if not is_apart(key) and len({json.dumps(one.get(key, [key]), default=str) for one in flat}) > 1
    ]


def _at(config: dict[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return _MISSING
        node = node[part]
    return node


def _text(value: Any) -> str:
    if value is _MISSING:
        return ABSENT
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)
