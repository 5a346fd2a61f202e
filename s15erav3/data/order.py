"""Order of the training windows within an epoch, in constant memory."""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from s15erav3.errors import UserError

ROUNDS = 8


class Feistel:
    """A pseudo-random permutation of 0 .. n - 1 in constant memory: ``order[i]`` is the window at place i.

    A Feistel network on pairs of digits, the left below a and the right below b, with a = ceil(sqrt(n)) and
    b = ceil(n / a). Each round adds a keyed hash of one digit to the other, modulo a or b, which can be undone, so
    the network is a bijection of 0 .. ab - 1. Results of n and more, fewer than a of them, are passed through it again
    until they are below n (cycle walking), which makes it a bijection of 0 .. n - 1.

    Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002), sections 4 and 5.

    Args:
        draw: source of the keys; the same seed gives the same order.
        n: number of windows, 1 <= n < 2^62.
    """

    def __init__(self, draw: np.random.Generator, n: int) -> None:
        self.n, self.left = n, math.isqrt(n - 1) + 1
        self.right = -(-n // self.left)
        self.keys = draw.integers(2**64, size=ROUNDS, dtype=np.uint64)

    def __getitem__(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Windows at ``places``, each at least 0 and below n; int64, (m,) for (m,)."""
        windows = self._network(places.astype(np.uint64))
        while (outside := windows >= self.n).any():
            windows[outside] = self._network(windows[outside])
        return windows.astype(np.int64)

    def _network(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = np.divmod(values, np.uint64(self.right))
        for left_key, right_key in self.keys.reshape(-1, 2):
            # The shift to 63 bits keeps the sum below 2^64: a sum that wraps could not be undone.
            left = (left + (_hash(right ^ left_key) >> 1)) % self.left
            right = (right + (_hash(left ^ right_key) >> 1)) % self.right
        return left * self.right + right


def _hash(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


Order = Literal["stored", "computed"]
STORED_UP_TO = 2**20
"""Windows up to which a permutation is stored, in 8 MB: random access to it is faster, and it is perfectly random."""


def usual_order(n: int) -> Order:
    """The kind of order for n windows."""
    return "stored" if n <= STORED_UP_TO else "computed"


def draw_order(kind: Order, draw: np.random.Generator, n: int) -> npt.NDArray[np.int64] | Feistel:
    """Draw a permutation of 0 .. n - 1 that can be indexed with arrays."""
    return draw.permutation(n) if kind == "stored" else Feistel(draw, n)


def order_of_checkpoint(state: dict[str, Any]) -> Order:
    """The kind of order that a checkpoint continues with. Version 0.2 had one only and did not name it.

    Raises:
        UserError: a later version has written an order that this one does not know.
    """
    for kind in get_args(Order):
        if state.get("order", "stored") == kind:
            return cast(Order, kind)
    raise UserError(
        f"the checkpoint was trained with its windows in the order {state['order']!r}, which this version does not "
        "know; resume it with the version that wrote it."
    )
