"""Forced routing: loads that are known beforehand, for tests and load studies.

Shapes: N tokens of a micro-batch, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer
from s15erav3.balancing.refuse import require_choice_by_score
from s15erav3.errors import UserError, check_number
from s15erav3.model import Router

Load = Literal["even", "zipf", "single"]


class Forced(Balancer):
    """Ignore the affinities in the choice of experts; weights still come from them. In training only.

    - ``even``: token t takes the experts (t K + j) mod E, j < K, so loads differ by at most one token.
    - ``zipf``: K different experts at random, drawn one after another with probability proportional to
      ``(i + 1)^-exponent`` for expert i (Gumbel top-K); 0 is random even routing.
    - ``single``: all tokens take the experts 0 to K - 1.

    As in the load-balanced and skewed test modes of Megatron-LM and torchtitan.

    Args:
        load: one of the above.
        exponent: of the Zipf distribution, used by ``zipf`` only.

    Raises:
        UserError: a value is out of range.
    """

    selects = True

    def __init__(self, load: Load = "even", exponent: float = 1.0) -> None:
        super().__init__()
        if load not in get_args(Load):
            raise UserError(f"balancing.load={load} is unknown; choose one of {', '.join(get_args(Load))}.")
        check_number("balancing.exponent", exponent, at_least=0)
        self.load, self.exponent = load, exponent

    def attach(self, routers: Sequence[Router]) -> None:
        """Replace every router's order of preference."""
        require_choice_by_score(routers, type(self).__name__)
        for router in routers:
            router.preference = self.prefer

    def prefer(self, scores: Tensor, top_k: int) -> Tensor:
        """Return values (N, E) whose top K are the forced experts; of ``scores`` (N, E) only the shape counts."""
        experts = torch.arange(scores.shape[1], device=scores.device)
        if self.load == "zipf":
            noise = torch.empty_like(scores).exponential_().log()
            return -self.exponent * (experts + 1).to(scores.dtype).log() - noise
        if self.load == "single":
            return (-experts).expand_as(scores)
        tokens = torch.arange(scores.shape[0], device=scores.device).unsqueeze(1)
        return -((experts - top_k * tokens) % scores.shape[1])
