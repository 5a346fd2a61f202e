"""How the first documents of a part begin: what samples go on from where a config gives no prompts."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import Tokens

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
