"""What tiktoken and tokenizers, which are Rust, raise where they fail on something: made errors of this program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tiktoken
from tiktoken_ext.openai_public import ENDOFTEXT

from s15erav3.errors import UserError


@contextmanager
def no_panic(what: str, remedy: str) -> Iterator[None]:
    """Make a panic, which is a BaseException without a class to import, a mistake that ends its own job alone.

    Raises:
        UserError: ``what`` happened, in which Rust panicked, and the ``remedy``.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        said = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{what} (the Rust code panicked: {said}); {remedy}.") from error


def build_encoding(name: str, pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> tiktoken.Encoding:
    """A ``tiktoken.Encoding`` of what may come from a damaged or foreign file.

    Raises:
        ValueError: it has no end-of-text token, an id is none, or the pattern is no regular expression.
        UserError: tiktoken panics on it.
    """
    if ENDOFTEXT not in special:
        raise ValueError(f"there is no {ENDOFTEXT} among its special tokens")
    try:
        with no_panic(f"tokenizer {name} cannot be built", "make it anew, or take another one"):
            return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"its parts are not what they should be: {error}") from error
