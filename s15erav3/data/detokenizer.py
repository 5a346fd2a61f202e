"""Text as its tokens arrive."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from s15erav3.data.tokenizer import Tokenizer


class TextStream:
    """Turns tokens into text, piece by piece, and ends it at the first of some strings.

    A character comes out when its last byte is there, and text that may become a stop string only once it
    is known not to. The pieces together are ``tokenizer.decode`` of the tokens, up to the stop string.

    Args:
        stop: strings that end the text and are not part of it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, [string for string in stop if string]
        self.text = ""
        self.ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._held = ""

    def add(self, token: int) -> str:
        """The text that is certain after ``token``, beyond what was returned before."""
        return self._advance(self._decoder.decode(self.tokenizer.bytes_of(token)))

    def close(self) -> str:
        """The rest, when no token follows; bytes of an unfinished character are dropped."""
        return self._advance(self._decoder.decode(b"", final=True), last=True)

    def _advance(self, new: str, last: bool = False) -> str:
        if self.ended:
            return ""
        held = self._held + new
        complete = [(at + len(string), at) for string in self.stop if (at := held.find(string)) >= 0]
        found = min(complete)[1] if complete else None  # the one that ends first, however tokens cut the text
        self.ended = last or found is not None
        certain = len(held) - (0 if self.ended else self._uncertain(held))
        if found is not None:
            certain = found
        self._held = held[certain:]
        self.text += held[:certain]
        return held[:certain]

    def _uncertain(self, held: str) -> int:
        """Length of the longest end of ``held`` that begins a stop string."""
        longest = max(map(len, self.stop), default=0)
        return next(
            (n for n in range(min(len(held), longest), 0, -1) if any(s.startswith(held[-n:]) for s in self.stop)), 0
        )
