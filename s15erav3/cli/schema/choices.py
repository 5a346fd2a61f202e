"""Read the packaged config folder as plain YAML: the choices of a group, their settings and descriptions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


def names(conf: Path, group: str) -> list[str]:
    """The choices of a group."""
    return sorted(file.stem for file in (conf / group).glob("*.yaml") if not file.stem.startswith("_"))


def content(conf: Path, group: str, choice: str) -> dict[str, Any]:
    """The settings of a choice, including those from its defaults list; interpolations are not resolved."""
    file = conf / group / f"{choice}.yaml"
    own: dict[str, Any] = yaml.safe_load(file.read_text()) or {}
    if "@package _global_" in file.read_text():
        return dict(own.get(group) or {})
    found: dict[str, Any] = {}
    for part in own.pop("defaults", ()) if group else ():
        if isinstance(part, str) and part != "_self_":
            found |= content(conf, group, part)
    for key, value in own.items():
        before = found.get(key)
        found[key] = before | value if isinstance(before, dict) and isinstance(value, dict) else value
    return found


def default_choices(conf: Path, verb: str) -> dict[str, str]:
    """The default choice of each group."""
    listed = yaml.safe_load((conf / f"{verb}.yaml").read_text()).get("defaults", ())
    pairs = [pair for part in listed if isinstance(part, dict) for pair in part.items()]
    return {group: str(choice) for group, choice in pairs if choice and not group.startswith("override")}


def about(conf: Path, group: str, choice: str) -> str:
    """The first sentence of the comment at the top of a choice's file; if it is long, the part before the colon."""
    said: list[str] = []
    for line in (conf / group / f"{choice}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            said.append(line.lstrip("# ").rstrip())
    sentence = re.split(r"(?<=\?) |\. ", " ".join(said))[0]
    return (sentence if len(sentence) <= 100 else sentence.partition(":")[0]).rstrip(".:")
