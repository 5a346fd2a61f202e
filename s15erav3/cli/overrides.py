"""Convert command-line words to Hydra overrides, taking free text literally.

Quotes, brackets, commas and backslashes are special in Hydra's grammar, and ``${`` is special in OmegaConf. Values
that are a text or a path are quoted here for both, and so are all overrides that the program itself creates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

TEXTS = ("prompt", "stop")
"""Settings that are a text, or a list of texts: ``["one","two"]``."""

PATHS = ("checkpoint", "reference", "resume", "init_from", "data.path", "output", "run_dir", "sweep.resume")
"""Settings that are a path."""

QUOTED = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
LISTED = re.compile(rf"\[\s*(?:{QUOTED}\s*(?:,\s*{QUOTED}\s*)*)?\]", re.DOTALL)
SWEPT = re.compile(r"(choice|shuffle|sort|range|interval|tag)\(.*\)", re.DOTALL)
"""Hydra's functions that describe several values in a command with -m."""


def leaves(node: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of nested mappings with its value; an empty mapping is a value."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def key_of(override: str) -> str:
    """The key that an override sets, without the ``+``, ``++`` or ``~`` before it."""
    return override.partition("=")[0].lstrip("+~")


def value_of(override: str) -> str:
    """The value of an override, without Hydra's quotes; lists and other containers as written."""
    value = override.partition("=")[2]
    if not re.fullmatch(QUOTED, value, re.DOTALL):
        return value
    return re.sub(r"(\\+)\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", _unquoted(value))


def is_place(word: str) -> bool:
    """Whether a positional word is a path: ``key=value`` is not, unless a file of that name exists."""
    return not re.match(r"[+~]{0,2}[\w./@:-]+=", word) or Path(word).exists()


def taken(key: str, words: Iterable[str]) -> tuple[str, list[str]]:
    """The value from the last of ``words`` that sets ``key``, with or without ``+`` or ``++``, and the other words.

    Returns:
        Value and words; the value is an empty string if it is unset or ``null``.
    """
    rest, value = [], ""
    for word in words:
        if "=" in word and not word.startswith("~") and key_of(word) == key:
            value = word.partition("=")[2]
        else:
            rest.append(word)
    return "" if value == "null" else value, rest


def literal(text: str) -> str:
    """Escape ``text`` for OmegaConf, so that ``${`` in it is not an interpolation."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)


def quote(text: str, *, interpolate: bool = False) -> str:
    """Quote ``text`` for Hydra's grammar, so that it is parsed back unchanged.

    Args:
        interpolate: keep ``${...}`` as an interpolation.
    """
    value = text if interpolate else literal(text)
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"  # backslashes are special only before a quote or at the end


def given(key: str, text: str, multirun: bool) -> str:
    """The word to type for a path, so that :func:`as_typed` yields ``text``."""
    text = "./null" if text == "null" else text
    return f"{key}={quote(text, interpolate=True) if multirun else text}"


def quote_list(texts: Iterable[str]) -> str:
    """Format ``texts`` as a list of quoted values."""
    return f"[{','.join(map(quote, texts))}]"


def as_typed(word: str, multirun: bool) -> str:
    """Convert ``word`` to an override; the value of a free-text setting is taken literally.

    A value that is entirely a list of quoted texts becomes a list for settings that take several, and ``null`` means
    no value. With ``multirun``, commas separate choices. A quoted choice may contain commas; its quotes are removed.
    """
    key, equals, value = word.partition("=")
    name = key_of(word)
    if not equals or key.startswith("~") or name not in (*TEXTS, *PATHS):
        return word
    if not multirun:
        return f"{key}={_value(name, value)}"
    if SWEPT.fullmatch(value):
        return word
    choices = [_choice(name, choice.strip()) for choice in _divided(value)]
    return f"{key}={','.join(choice or quote('') for choice in choices) if len(choices) > 1 else choices[0]}"


def _value(name: str, value: str) -> str:
    if value in ("null", ""):
        return value
    if name in TEXTS and LISTED.fullmatch(value):
        return quote_list(_unquoted(found) for found in re.findall(QUOTED, value, re.DOTALL))
    return quote(value)


def _choice(name: str, value: str) -> str:
    return quote(_unquoted(value)) if re.fullmatch(QUOTED, value, re.DOTALL) else _value(name, value)


def _unquoted(quoted: str) -> str:
    """The text between Hydra's quotes."""
    mark = quoted[0]
    return re.sub(rf"(\\+)({mark}|\Z)", lambda found: found[1][: len(found[1]) // 2] + found[2], quoted[1:-1])


def _divided(value: str) -> list[str]:
    """Split ``value`` at its commas, except inside a choice that is entirely quoted or a list of quoted texts."""
    whole = rf"\s*(?:{QUOTED}|{LISTED.pattern})\s*(?=,|\Z)|[^,]*"
    found, at = [], 0
    while at <= len(value):
        match = re.compile(whole, re.DOTALL).match(value, at)
        assert match is not None
        found.append(match[0])
        at = match.end() + 1
    return found
