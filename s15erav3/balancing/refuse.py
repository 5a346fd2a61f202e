"""Models that a strategy is not for."""

from __future__ import annotations

from collections.abc import Sequence

from s15erav3.errors import UserError
from s15erav3.model import Router


def refuse_expert_choice(routers: Sequence[Router], strategy: str) -> None:
    """Say so where experts choose tokens.

    Raises:
        UserError: they do.
    """
    if any(router.expert_choice for router in routers):
        raise UserError(
            f"balancing by {strategy} is for tokens that choose experts, and experts.topk_method=expert_choice is the "
            "other way round; take balancing=expert_choice, or experts.topk_method=noaux_tc."
        )


def refuse_groups(routers: Sequence[Router], strategy: str) -> None:
    """Say so where a token may use some groups of experts alone.

    Raises:
        UserError: it may.
    """
    for router in routers:
        if router.top_groups < router.groups:
            raise UserError(
                f"balancing by {strategy} does not know groups, but experts.topk_group={router.top_groups} of experts."
                f"n_group={router.groups} are open to a token; take experts.n_group=1 or another strategy."
            )
