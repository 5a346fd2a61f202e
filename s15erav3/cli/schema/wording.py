"""Describe an annotation in words: ``a whole number, at least 1, or null``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from typing_extensions import Doc

from s15erav3.cli.schema.kinds import Hint, Must

BOUNDS = {Ge: ("at least", "ge"), Gt: ("greater than", "gt"), Le: ("at most", "le"), Lt: ("less than", "lt")}


def metadata(annotation: Any) -> tuple[Any, ...]:
    """The metadata of an annotated type."""
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def description(annotation: Any) -> str:
    """The one-line description of a setting; the last one takes precedence."""
    return next((m.documentation for m in reversed(metadata(annotation)) if isinstance(m, Doc)), "")


def hint(annotation: Any) -> str:
    """The remedy at the end of an error message."""
    return next((m.text for m in metadata(annotation) if isinstance(m, Hint)), "")


def alternatives(annotation: Any, beside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The types of a union, each with all its constraints."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from alternatives(get_args(annotation)[0], (*get_args(annotation)[1:], *beside))
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from alternatives(member, beside)
    else:
        yield annotation, beside


def is_text(annotation: Any) -> bool:
    """Whether the setting is free text, so that a value such as ``1`` is a text."""
    return any(kind is str and not _constraints(beside) for kind, beside in alternatives(annotation))


def _constraints(beside: tuple[Any, ...]) -> list[Any]:
    return [m for m in beside if not isinstance(m, Doc | Hint | Must)]


def what(annotation: Any) -> str:
    """Description of the allowed values."""
    for said in metadata(annotation):
        if isinstance(said, Must):
            return said.text
    kinds = list(alternatives(annotation))
    words = ["null"] if any(kind in (None, NoneType) for kind, _ in kinds) else []
    if is_text(annotation):
        said = next((m.text for _, beside in kinds for m in beside if isinstance(m, Must)), "a text")
        return _either([said, *words])
    literal = [_word(value) for kind, _ in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    if any(kind is bool for kind, _ in kinds):
        literal = ["true", *literal, "false"]
    phrases = [_phrase(kind, beside) for kind, beside in kinds]
    return _either([*filter(None, phrases), *literal, *words])


def _phrase(kind: Any, beside: tuple[Any, ...]) -> str:
    if kind in (int, float):
        number = "a whole number" if kind is int else "a number"
        bounds = [
            f"{word} {getattr(m, name):.12g}" for m in beside for k, (word, name) in BOUNDS.items() if isinstance(m, k)
        ]
        return number + (f", {' and '.join(bounds)}" if bounds else "")
    if get_origin(kind) is list:
        return f"a list, each {what(get_args(kind)[0])}"
    return "settings" if get_origin(kind) is Mapping else ""


def _either(choices: list[str]) -> str:
    *others, last = choices
    if not others:
        return last
    comma = "," if any("," in choice for choice in choices) else ""
    return f"{', '.join(others)}{comma} or {last}"


def _word(value: Any) -> str:
    return {True: "true", False: "false", None: "null"}[value] if value in (True, False, None) else str(value)
