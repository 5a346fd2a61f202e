"""What samples go on from: the prompts that a config gives, or how the first documents of a part begin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import Tokens
from s15erav3.errors import UserError

WORDS, CHARACTERS = 8, 48
"""The longest opening."""
HEAD = 64
"""Tokens of a document that are looked at."""
DOCUMENTS, REACH = 50, 1 << 20
"""Documents, and tokens, that are looked at."""


def openings(tokens: Tokens, tokenizer: Tokenizer, count: int = 2) -> list[str]:
    """How the first documents of a part begin, no two alike: at most eight words and half of the document each, so that
    something is left to be written.

    Args:
        tokens: ids of the part, (length,).
        count: openings wanted.

    Returns:
        fewer where fewer documents differ; none of a part without text.
    """
    near = tokens[:REACH]
    ends = [-1, *np.flatnonzero(near == tokenizer.end_of_text)[:DOCUMENTS].tolist(), len(near)]
    heads = (tokenizer.decode(near[before + 1 : after][:HEAD].tolist()) for before, after in pairwise(ends))
    found = dict.fromkeys(text for head in heads if (text := opening(head)))
    return list(found)[:count]


def opening(head: str) -> str:
    """The opening of a document that begins with this text; empty for white space alone."""
    text = head.lstrip()
    words = re.findall(r"\s*\S+", text)
    if len(words) < 2:  # one word, or a script that does not part them
        return text.strip()[: min(CHARACTERS, (len(text.strip()) + 1) // 2)]
    return "".join(words[: min(WORDS, len(words) // 2)])[:CHARACTERS]


def check_prompts(key: str, value: object) -> list[str] | None:
    """Prompts as a setting gives them: a text, a list of texts, or ``None`` for those of the data.

    Raises:
        UserError: it is something else.
    """
    if value is None:
        return None
    given = [value] if isinstance(value, str) else value
    if isinstance(given, Sequence) and all(isinstance(text, str) for text in given):
        return list(given)
    raise UserError(
        f"{key}={value} must be a list of texts, as in ['one','two'], or null for the openings of held-out documents."
    )
