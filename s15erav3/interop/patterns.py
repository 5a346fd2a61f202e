"""Conversion of word-splitting patterns between the regular expressions of tiktoken and tokenizers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from s15erav3.errors import UserError

# The common subset of tiktoken's regular expressions (Rust's fancy-regex) and those of tokenizers (Oniguruma, as in
# Ruby), except for "many" and "end". Other classes and nested sets exist in both, but do not always mean the same.
_SYMBOL = r"\\[!-/:;=?@\[-`{-~]"  # not < and >, which are word boundaries in Rust
_CLASS = r"\\[pP]\{[CLMNPSZ][a-z]?\}|\\[sSdDnrt]"
_BRACKETS = rf"\[\^?(?:{_CLASS}|{_SYMBOL}|(?!&&|--|~~)[^\[\]\\])+\]"
_TIMES = r"[?*+][?+]?|\{\d+,\d*\}\??|\{\d+\}"
_PIECE = re.compile(
    rf"(?P<open>\((?:\?(?:i?:|>|=|!))?)|(?P<end>\$)|\|"
    rf"|(?P<item>\)|\\z|{_CLASS}|{_SYMBOL}|{_BRACKETS}|[^\\\[\](){{}}|?*+^$])"
    rf"(?:(?P<many>(?<!\))\{{\d+(?:,\d*)?\}})\+|(?P<times>{_TIMES}))?"
)


def to_oniguruma(pattern: str, whose: str) -> str:
    """Convert tiktoken's pattern for tokenizers, where ``{1,3}+`` repeats and ``$`` is the end of every line."""
    return _translate(pattern, whose, "(?>", ")", r"\z")


def to_tiktoken(regex: str, whose: str) -> str:
    """Convert a tokenizers pattern for tiktoken, where ``{1,3}+`` is possessive and ``$`` is the end of the text."""
    pattern = _translate(regex, whose, "(?:", ")+", r"(?=\n|\z)")
    # Text between matches is a word in tokenizers, but would be lost in tiktoken.
    return rf"{pattern}|(?:(?!{pattern})[\s\S])+"


def _translate(pattern: str, whose: str, opening: str, closing: str, end: str) -> str:
    translated = ""
    for piece in _pieces(pattern, whose):
        if piece["many"]:
            translated += opening + piece["item"] + piece["many"] + closing
        else:
            translated += end if piece["end"] else piece[0]
    return translated


def can_be_empty(pattern: str, whose: str) -> bool:
    """Whether the pattern could match the empty string, judged by its structure."""
    form, closings = "", []
    for piece in _pieces(pattern, whose):
        if piece["open"]:  # lookaheads consume nothing
            form += "(?:"
            closings.append("|)" if piece["open"][-1] in "=!" else ")")
        elif piece["item"]:
            width = closings.pop() if piece["item"] == ")" else "(?:)" if piece["item"] == r"\z" else "x"
            form += width + (piece["many"] or piece["times"] or "")
        elif not piece["end"]:
            form += "|"
    return re.fullmatch(form, "") is not None


def _pieces(pattern: str, whose: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(pattern):
        piece = _PIECE.match(pattern, at)
        if piece is None:
            raise UserError(
                f"{whose} splits words by a pattern with {pattern[at : at + 20]!r}, which tiktoken and tokenizers "
                "may read differently; use a tokenizer with a simpler pattern."
            )
        yield piece
        at = piece.end()
