"""Print the schema: ``s15erav3 train --help`` lists the groups, ``--help experts`` the settings of one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from s15erav3.cli.schema.check import MISSING, is_missing, shown
from s15erav3.cli.schema.choices import about, content, default_choices, names
from s15erav3.cli.schema.search import PRUNER, SAMPLER, SWEEPER
from s15erav3.cli.schema.train import GpuQueue, Ray
from s15erav3.cli.schema.tree import VERBS, Group, fields
from s15erav3.cli.schema.wording import description, what

WIDTH = 120
MORE = {
    "balancing/loss": VERBS["train"]["balancing.loss"],
    "experiment": Group("a named combination of all of the above"),
    "experiment/study": Group("what the study compares: experiment=study/none and so on"),
    "hydra/launcher": Group(
        "how the jobs of a sweep run",
        by_target={"s15erav3.sweeps.launcher.GpuQueue": GpuQueue, "s15erav3.sweeps.ray_jobs.RayJobs": Ray},
    ),
    "hydra/sweeper": Group("what chooses the runs of a sweep: all combinations, or Optuna", by_target=SWEEPER),
    "hydra/sweeper/sampler": Group("with hydra/sweeper=optuna: its sampler", by_target=SAMPLER),
    "hydra/sweeper/pruner": Group("with hydra/sweeper=optuna: its pruner, which ends runs early", by_target=PRUNER),
}
"""Groups of ``train`` that are not part of a run's config."""


class Row(NamedTuple):
    """A setting of a group."""

    name: str
    default: str
    annotation: Any
    choices: list[str]
    """Choices that have this setting; empty if all do."""


def groups(verb: str) -> dict[str, Group]:
    """Groups for which help is available, by name."""
    found = {place: group for place, group in VERBS[verb].items() if place and "." not in place}
    return found | (MORE if verb == "train" else {})


def overview(verb: str, conf: Path) -> str:
    """Every group of a verb with a one-line description and its choices, the default marked; then the other settings.

    Args:
        conf: the packaged config folder.
    """
    chosen, lines = default_choices(conf, verb), []
    for name, group in groups(verb).items():
        lines.append(f"{name:14} {group.says}")
        if choices := names(conf, name) if verb == "train" else []:
            marked = " ".join(f"{choice}*" if choice == chosen.get(name) else choice for choice in choices)
            lines += textwrap.wrap(marked, WIDTH, initial_indent=" " * 15, subsequent_indent=" " * 15)
    settings = VERBS[verb][""]
    defaults = content(conf, "", verb)
    lines += ["", *_table([_row(key, a, defaults) for key, a in fields(settings.of({}) or dict).items()])]
    return "\n".join(lines)


def describe(verb: str, name: str, conf: Path, choice: str | None = None) -> str:
    """The settings of a group, with name, default, allowed values and purpose, and the group's choices.

    Args:
        name: one of :func:`groups`.
        conf: the packaged config folder.
        choice: the choice whose defaults are shown; ``None`` for the default choice.
    """
    group = groups(verb)[name]
    chosen = choice or default_choices(conf, verb).get(name)
    lines = [f"{name}: {group.says}"]
    choices = names(conf, name) if verb == "train" else []
    if choices:
        pad = max(map(len, choices)) + 5
        lines += ["", "CHOICES"]
        for c in choices:
            marked = f"  {c}{'*' if c == chosen else ''}"
            lines += textwrap.wrap(f"{marked:{pad}}{about(conf, name, c)}", WIDTH, subsequent_indent=" " * pad) or [
                marked
            ]
    of = f" WITH {name}={chosen}" if chosen else ""
    lines += ["", f"SETTINGS{of}", *_table(list(_rows(verb, name, group, conf, chosen, choices)))]
    return "\n".join(lines)


def _rows(verb: str, name: str, group: Group, conf: Path, chosen: str | None, choices: list[str]) -> Iterator[Row]:
    prefix = name.replace("/", ".") + "."
    top = content(conf, "", verb).get(name) or {}
    first = [choice for choice in choices if choice == chosen]
    nodes = {c: top | content(conf, name, c) for c in [*first, *(c for c in choices if c not in first)]}
    for member, (_, settings) in group.members.items():
        node: dict[str, Any] = next((n[member] for n in nodes.values() if isinstance(n.get(member), dict)), {})
        yield from (_row(f"{prefix}{member}.{key}", a, node, key) for key, a in fields(settings).items())
    if group.settings is not None:
        node = nodes[chosen] if chosen else top
        yield from (_row(f"{prefix}{key}", a, node, key) for key, a in fields(group.settings).items())
    if name == "model" and (yarn := VERBS[verb]["model.rope_scaling"].settings) is not None:
        yield from (_row(f"{prefix}rope_scaling.{key}", a, {}, key) for key, a in fields(yarn).items())
    of = {c: fields(found) for c, node in nodes.items() if (found := group.by_target.get(str(node.get("_target_"))))}
    for key in dict.fromkeys(key for known in of.values() for key in known):
        rows = {c: _row(f"{prefix}{key}", known[key], nodes[c], key) for c, known in of.items() if key in known}
        if chosen in rows:
            yield rows[chosen]
            continue
        alike: dict[str, list[str]] = {}
        for c, row in rows.items():
            alike.setdefault("\n".join(_table([row])), []).append(c)
        yield from (rows[same[0]]._replace(choices=same) for same in alike.values())


def _row(name: str, annotation: Any, node: Mapping[str, Any], key: str = "") -> Row:
    value = node.get(key or name, MISSING)
    return Row(name, "" if is_missing(value) else shown(value), annotation, [])


def _table(rows: list[Row]) -> Iterator[str]:
    if not rows:
        yield "  none"
    left = max((len(row.name) + len(row.default) for row in rows), default=0) + 3
    for row in rows:
        setting = f"{row.name}={row.default}" if row.default else f"{row.name}"
        yield f"  {setting:{left}}{what(row.annotation)}"
        with_choices = f" (with {', '.join(row.choices)})" if row.choices else ""
        yield from textwrap.wrap(
            description(row.annotation) + with_choices, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
