"""Incremental detokenization."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from s15erav3.data.tokenizer import Tokenizer


class TextStream:
    """Converts tokens to text incrementally, up to the first stop string.

    A character is emitted when its last byte has arrived. Text that could become a stop string is held back until
    this is ruled out. The concatenated pieces equal ``tokenizer.decode`` of the tokens, up to the stop string.

    Args:
        stop: stop strings, not included in the text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, [string for string in stop if string]
        self.text = ""
        self.ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._held = ""

    def add(self, token: int) -> str:
        """Add a token and return the new text that is final."""
        return self._advance(self._decoder.decode(self.tokenizer.bytes_of(token)))

    def close(self) -> str:
        """Return the remaining text after the last token; bytes of an incomplete character are dropped."""
        return self._advance(self._decoder.decode(b"", final=True), last=True)

    def _advance(self, new: str, last: bool = False) -> str:
        if self.ended:
            return ""
        held = self._held + new
        complete = [(at + len(string), at) for string in self.stop if (at := held.find(string)) >= 0]
        found = min(complete)[1] if complete else None  # the one that ends first, independent of token boundaries
        self.ended = last or found is not None
        certain = len(held) - (0 if self.ended else self._uncertain(held))
        if found is not None:
            certain = found
        self._held = held[certain:]
        self.text += held[:certain]
        return held[:certain]

    def _uncertain(self, held: str) -> int:
        """Length of the longest suffix of ``held`` that is a prefix of a stop string."""
        longest = max(map(len, self.stop), default=0)
        return next(
            (n for n in range(min(len(held), longest), 0, -1) if any(s.startswith(held[-n:]) for s in self.stop)), 0
        )
