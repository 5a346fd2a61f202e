"""Hash routing (Hash Layers, arXiv 2106.04426): a fixed map from a token's id to its experts.

Shapes: V vocabulary, E experts, K experts per token.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from s15erav3.balancing.base import Balancer
from s15erav3.errors import UserError
from s15erav3.model import Router

Map = Literal["balanced", "random"]
Counts = NDArray[np.int64]


class Hash(Balancer):
    """The experts of a token are those of its id, in training and in evaluation; weights are from the affinities.

    - ``balanced``: from the most to the least frequent token of the training part, each takes the K experts of the
      lowest load so far (section 3.1, balanced assignment, there for K = 1).
    - ``random``: K different experts at random for each id, whatever its frequency.

    Layers differ, by a random order among tokens of similar frequency. A control: nothing is learned about who uses
    which expert. DeepSeek-V4 (arXiv 2606.19348) routes its first three layers by hash; here all MoE layers are, those
    of multi-token prediction by the token that they read. ``conf/balancing/hash.yaml`` also sets
    ``experts.topk_method``. Written from the papers' descriptions; no implementation was at hand.

    Args:
        map: one of the above.

    Raises:
        UserError: the value is unknown.
    """

    selects = True
    router_settings = MappingProxyType({"topk_method": "hash"})

    def __init__(self, map: Map = "balanced") -> None:
        super().__init__()
        if map not in get_args(Map):
            raise UserError(f"balancing.map={map} is unknown; choose one of {', '.join(get_args(Map))}.")
        self.map = map
        self._counts: Counts | None = None

    def prepare(self, token_counts: Callable[[], Counts]) -> None:
        """Count the tokens, if the map depends on them."""
        self._counts = token_counts() if self.map == "balanced" else None

    def attach(self, routers: Sequence[Router]) -> None:
        """Fill the routers' tables, and reject routers that have none.

        Without :meth:`prepare` they keep what they hold: random rows in a new model, its map in a trained one.
        """
        for layer, router in enumerate(routers):
            if router.table is None:
                raise UserError(
                    "balancing=hash needs experts.topk_method=hash, found another one; leave that setting to "
                    "balancing=hash."
                )
            if self._counts is not None:
                router.table.copy_(
                    torch.from_numpy(balanced_map(self._counts, len(router.bias), router.top_k, seed=layer))
                )


def balanced_map(counts: Counts, n_experts: int, top_k: int, seed: int) -> NDArray[np.int64]:
    """Experts of each token id, so that every expert gets about ``sum(counts) K / E`` tokens: (V,) -> (V, K).

    Ids that do not occur get random experts.
    """
    rng = np.random.default_rng(seed)
    table = rng.random((len(counts), n_experts)).argsort(axis=1)[:, :top_k]
    loads = [(0, float(tie), int(expert)) for expert, tie in enumerate(rng.random(n_experts))]
    heapq.heapify(loads)
    order = np.argsort(-counts * rng.uniform(0.5, 1, len(counts)), kind="stable")
    for token in order[: np.count_nonzero(counts)]:
        emptiest = [heapq.heappop(loads) for _ in range(top_k)]
        table[token] = [expert for _, _, expert in emptiest]
        for load, tie, expert in emptiest:
            heapq.heappush(loads, (load + int(counts[token]), tie, expert))
    return table
