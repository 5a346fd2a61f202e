"""What each token of a part is about: the domains in which experts may specialise.

Nothing is tokenized again: the ids of a part give byte lengths, its documents give the bytes at which events and
their parts begin, and a token belongs where its first byte lies.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from s15erav3.data.commentary import Ball, parse_events, take_apart
from s15erav3.data.corpus import Corpus
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import Part, SplitPlan, Tokens, documents_of
from s15erav3.errors import UserError

DOMAINS = ("phase", "event", "team", "bowler", "batter", "part")
NO_TEXT = "none"
"""The value of end-of-text, which is in no document, in every domain of commentary."""


class Domain(NamedTuple):
    """A label for every token of a part."""

    codes: npt.NDArray[np.int64]
    """Of each token, an index into ``names``, (length of the part,)."""
    names: list[str]
    """The values, each once."""


def label_tokens(
    corpus: Corpus, plan: SplitPlan | None, part: Part, tokenizer: Tokenizer, tokens: Tokens
) -> dict[str, Domain]:
    """The domains of one part of a corpus.

    ``token``, the vocabulary as far as it occurs, is there for any text. Commentary has ``phase``, ``event``,
    ``team``, ``bowler``, ``batter`` and ``part`` besides (see :class:`.commentary.Ball`), ``unknown`` where
    an event cannot be parsed and ``none`` at end-of-text.

    Args:
        plan, tokenizer: those that ``tokens`` were made with.
        tokens: ids of the part, (length,).

    Raises:
        ValueError: the tokens are not those of the part.
    """
    ids, codes = np.unique(tokens, return_inverse=True)
    labels = {"token": Domain(codes.astype(np.int64), [token_name(tokenizer, int(i)) for i in ids])}
    if corpus.format != "ipl":
        return labels
    balls: list[Ball] = []
    event_starts, part_starts, parts, at = [], [], [], 0
    for document in documents_of(corpus, plan, part):
        for event in parse_events(io.StringIO(document.text), corpus.path):
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
    """Label tokens of such byte lengths with the value of the stretch, begun at ``starts``, of their first byte."""
    first_byte = np.cumsum(lengths) - lengths
    stretch = np.searchsorted(starts, first_byte, side="right") - 1
    stretch[lengths == 0] = len(values)
    names, codes = np.unique([*values, NO_TEXT], return_inverse=True)
    return Domain(codes[stretch].astype(np.int64), names.tolist())


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """A token's bytes as printable text: other characters as \\n, \\t or \\x and the hexadecimal digits of their
    UTF-8 bytes, a backslash doubled; so different tokens have different names."""
    if token == tokenizer.end_of_text:
        return "<|endoftext|>"
    return "".join(_printable(c) for c in tokenizer.bytes_of(token).decode("utf-8", "surrogateescape"))


def _printable(character: str) -> str:
    if character in "\\\n\r\t":
        return character.encode("unicode_escape").decode()
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
