"""Labels for each token of a part: the domains in which experts may specialise.

Nothing is tokenized again: the token ids give byte lengths, the documents give the byte offsets of events and
their parts, and a token gets the label of its first byte.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from s15erav3.data.commentary import Ball, parse_events, take_apart
from s15erav3.data.corpus import Corpus
from s15erav3.data.splits import Part
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import SplitPlan, Tokens, texts_of
from s15erav3.errors import UserError

DOMAINS = ("phase", "event", "team", "bowler", "batter", "part")
NO_TEXT = "none"
"""Value of end-of-text, which belongs to no document, in every commentary domain."""


class Domain(NamedTuple):
    """Labels of all tokens of a part."""

    codes: npt.NDArray[np.int64]
    """Index into ``names`` per token, (length of the part,)."""
    names: list[str]
    """The distinct values."""


def label_tokens(
    corpus: Corpus, plan: SplitPlan | None, part: Part, tokenizer: Tokenizer, tokens: Tokens
) -> dict[str, Domain]:
    """Label the tokens of one part of a corpus in all domains.

    Any text has the domain ``token``, the vocabulary that occurs in it. Commentary also has ``phase``, ``event``,
    ``team``, ``bowler``, ``batter`` and ``part`` (see :class:`.commentary.Ball`), with the value ``unknown``
    where an event cannot be parsed and ``none`` at end-of-text.

    Args:
        plan, tokenizer: those used to create ``tokens``.
        tokens: ids of the part, (length,).

    Raises:
        ValueError: the tokens do not match the part.
    """
    ids, codes = np.unique(tokens, return_inverse=True)
    labels = {"token": Domain(codes.astype(np.int64), [token_name(tokenizer, int(i)) for i in ids])}
    if corpus.format != "ipl":
        return labels
    balls: list[Ball] = []
    event_starts, part_starts, parts, at = [], [], [], 0
    for text in texts_of(corpus, plan, part):
        for event in parse_events(io.StringIO(text), corpus.path):
            ball = take_apart(event)
            balls.append(ball)
            event_starts.append(at)
            part_starts += [at + start for start, _ in ball.spans]
            parts += [name for _, name in ball.spans]
            at += len(event.text.encode())
    lengths = tokenizer.byte_lengths[tokens]
    if lengths.sum() != at:
        raise UserError(
            f"tokenizer={tokenizer.name} loses text: its tokens stand for {lengths.sum()} bytes, and the part '{part}' "
            f"of {corpus.path} has {at}; give another checkpoint."
        )
    for domain in DOMAINS[:-1]:
        labels[domain] = _place(lengths, event_starts, [getattr(ball, domain) for ball in balls])
    labels["part"] = _place(lengths, part_starts, parts)
    return labels


def _place(lengths: npt.NDArray[np.int64], starts: list[int], values: list[str]) -> Domain:
    """Label tokens, given by byte lengths, with the value of the stretch (from ``starts``) of their first byte."""
    first_byte = np.cumsum(lengths) - lengths
    stretch = np.searchsorted(starts, first_byte, side="right") - 1
    stretch[lengths == 0] = len(values)
    names, codes = np.unique([*values, NO_TEXT], return_inverse=True)
    return Domain(codes[stretch].astype(np.int64), names.tolist())


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's bytes as printable text.

    Non-printable characters become \\n, \\t or \\x with the hexadecimal digits of their UTF-8 bytes, and a backslash is
    doubled, so names are unique.
    """
    if token == tokenizer.end_of_text:
        return "<|endoftext|>"
    return "".join(_printable(c) for c in tokenizer.bytes_of(token).decode("utf-8", "surrogateescape"))


def _printable(character: str) -> str:
    if character in "\\\n\r\t":
        return character.encode("unicode_escape").decode()
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
