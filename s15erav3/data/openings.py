"""Openings of the first documents of a part: default prompts for samples when a config gives none."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import Tokens

WORDS, CHARACTERS = 8, 48
"""Length of the longest opening."""
HEAD = 64
"""Tokens read from a document."""
DOCUMENTS, REACH = 50, 1 << 20
"""Maximum documents, and tokens, that are searched."""


def openings(tokens: Tokens, tokenizer: Tokenizer, count: int = 2) -> list[str]:
    """Return distinct openings of the first documents of a part.

    Each has at most eight words and half of the document, so that something is left to generate.

    Args:
        tokens: ids of the part, (length,).
        count: number of openings.

    Returns:
        fewer than ``count`` if fewer documents differ; none for a part without text.
    """
    near = tokens[:REACH]
    ends = [-1, *np.flatnonzero(near == tokenizer.end_of_text)[:DOCUMENTS].tolist(), len(near)]
    heads = (tokenizer.decode(near[before + 1 : after][:HEAD].tolist()) for before, after in pairwise(ends))
    found = dict.fromkeys(text for head in heads if (text := opening(head)))
    return list(found)[:count]


def opening(head: str) -> str:
    """Return the opening of a document that starts with this text; empty for white space only."""
    text = head.lstrip()
    words = re.findall(r"\s*\S+", text)
    if len(words) < 2:  # one word, or a script without word separators
        return text.strip()[: min(CHARACTERS, (len(text.strip()) + 1) // 2)]
    return "".join(words[: min(WORDS, len(words) // 2)])[:CHARACTERS]
