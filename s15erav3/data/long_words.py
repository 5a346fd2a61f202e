"""Cutting of very long words, which tokenizers cannot bear."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

LONGEST_WORD = 3000
"""Characters after which a very long word, such as a million blanks, is cut: tiktoken panics on such words, and
training time grows with the square of their length. A multiple of 3 preserves the digit groups of cl100k_base."""

# White space as defined by the encodings; Python also includes the separators 1c to 1f.
_SPACE, _INK = r"[^\S\x1c-\x1f]", r"[\S\x1c-\x1f]"
_LONG_RUN = re.compile(rf"(?<!{_INK}){_INK}{{{LONGEST_WORD + 1},}}|(?<!{_SPACE}){_SPACE}{{{LONGEST_WORD + 1},}}")
_CLASS_RUN = re.compile(r"[LM]+|N+|[PM]+|_+")


def has_long_word(text: str) -> bool:
    """Whether ``text`` may have a word longer than :data:`LONGEST_WORD` characters."""
    return len(text) > LONGEST_WORD and _LONG_RUN.search(text) is not None


def cut_long_words(text: str) -> Iterator[str]:
    """Split ``text`` into pieces, so that no word is longer than :data:`LONGEST_WORD` characters.

    Cuts are made only inside longer runs of letters, digits, punctuation or white space, which some encoding would
    treat as one word.
    """
    done = 0
    for found in _LONG_RUN.finditer(text):
        for run in _CLASS_RUN.finditer("".join(map(_class, found[0]))):
            start, end = found.start() + run.start(), found.start() + run.end()
            for cut in range(start + LONGEST_WORD, end, LONGEST_WORD):
                yield text[done:cut]
                done = cut
    yield text[done:]


def _class(character: str) -> str:
    """Character class: L letter, M mark (a letter or punctuation, by encoding), N number, _ white space, P other."""
    if character.isspace() and not "\x1c" <= character <= "\x1f":
        return "_"
    category = unicodedata.category(character)[0]
    return category if category in "LMN" else "P"
