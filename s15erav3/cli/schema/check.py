"""Validate a config against the schema; all settings pass through here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from s15erav3.cli.schema.kinds import Held
from s15erav3.cli.schema.rules import RULES
from s15erav3.cli.schema.trainer import OWN, Lightning
from s15erav3.cli.schema.tree import VERBS, fields, parts
from s15erav3.cli.schema.wording import hint, metadata, what
from s15erav3.errors import UserError, nearest, one_line

MISSING = "???"


def check(config: Mapping[str, Any], verb: str) -> None:
    """Refuse a config of ``verb`` with a setting of the wrong type, out of range or in conflict with another.

    Args:
        config: plain containers, interpolations resolved; missing values (``???``) are not checked here.

    Raises:
        UserError: names the first such setting.
    """
    for place in VERBS[verb]:
        if place and "." not in place and not isinstance(node := config.get(place), Mapping):
            raise UserError(
                f"{place}={shown(node)} must be a group of settings; change single settings ({place}.key=value)."
            )
    for place, node, settings in parts(verb, config):
        check_part(place, node, settings)
    if verb == "train":
        _check_lightning(config["trainer"])
    for rule in RULES[verb]:
        rule(config)


def is_missing(value: Any) -> bool:
    """Whether a value is still missing."""
    return isinstance(value, str) and value == MISSING


def check_part(place: str, node: Mapping[str, Any], settings: type) -> None:
    """Refuse a value in the part ``place`` of a config that does not fit the class of its settings.

    Raises:
        UserError: names the first such value.
    """
    from pydantic import ValidationError  # slow import (0.25 s), not needed for help

    known, prefix = fields(settings), f"{place}." if place else ""
    given = {str(k): v for k, v in node.items() if not str(k).startswith("_") and not is_missing(v)}
    if not place:
        given = {key: value for key, value in given.items() if key in known}  # others: groups or user-defined keys
    try:
        _judge(settings).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, *within = first["loc"]
        if key not in known:
            raise UserError(f"'{prefix}{key}' is not a setting of '{place}': {nearest(key, known)}") from error
        raise _refusal(f"{prefix}{key}", given[str(key)], known[str(key)], list(within), first) from error


def check_made(place: str, node: Any, by_target: Mapping[str, type]) -> None:
    """Like :func:`check_part`, with the class chosen by ``_target_``; settings of external targets are not checked."""
    if isinstance(node, Mapping) and (settings := by_target.get(str(node.get("_target_", "")))) is not None:
        check_part(place, node, settings)


@cache
def _judge(settings: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(settings)


def _refusal(name: str, value: Any, annotation: Any, within: list[Any], error: Any) -> UserError:
    """The error for a value, or for an element of a list."""
    remedy = hint(annotation)
    if isinstance(value, list) and within and isinstance(within[-1], int) and within[-1] < len(value):
        kind: Any = get_args(annotation)[0] if metadata(annotation) else annotation
        element = get_args(kind)[0] if get_args(kind) else annotation
        name, value = f"{name}[{within[-1]}]", value[within[-1]]
        annotation = element if len(within) == 1 else annotation
    if not remedy:
        try:
            Held.check(value)
        except ValueError as why:
            remedy = str(why)
    return UserError(f"{name}={shown(value)} must be {what(annotation)}{remedy}.")


def shown(value: Any) -> str:
    """Format a value as it would be typed, in one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{shown(v)}' for key, v in value.items())}}}"
    text = one_line(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _check_lightning(trainer: Mapping[str, Any]) -> None:
    """Check Lightning arguments that were added with ``+trainer.``.

    Raises:
        UserError: this program sets the argument itself, or nothing would be trained or saved with it.
    """
    for name in OWN:
        if name in trainer:
            raise UserError(f"trainer.{name}={shown(trainer[name])} is set by this program; leave it out.")
    limits = fields(Lightning)
    check_part("trainer", {key: value for key, value in trainer.items() if key in limits}, Lightning)
