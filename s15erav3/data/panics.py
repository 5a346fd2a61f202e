"""Conversion of Rust panics from tiktoken and tokenizers to errors of this program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tiktoken
from tiktoken_ext.openai_public import ENDOFTEXT

from s15erav3.errors import UserError


@contextmanager
def no_panic(what: str, remedy: str) -> Iterator[None]:
    """Convert a panic, a BaseException without an importable class, to a UserError that ends only its own job.

    Raises:
        UserError: Rust panicked; the message states ``what`` happened and the ``remedy``.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        said = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{what} (the Rust code panicked: {said}); {remedy}.") from error


def build_encoding(name: str, pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> tiktoken.Encoding:
    """Build a ``tiktoken.Encoding`` from values that may come from a damaged or foreign file.

    Raises:
        ValueError: there is no end-of-text token, an id is invalid, or the pattern is not a regular expression.
        UserError: tiktoken panics on it.
    """
    if ENDOFTEXT not in special:
        raise ValueError(f"its special tokens lack {ENDOFTEXT}")
    try:
        with no_panic(f"tokenizer {name} cannot be built", "create it again, or use another one"):
            return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"its parts are invalid: {error}") from error
