"""Checks that reject models a strategy does not support."""

from __future__ import annotations

from collections.abc import Sequence

from s15erav3.errors import UserError
from s15erav3.model import Router


def refuse_expert_choice(routers: Sequence[Router], strategy: str) -> None:
    """Reject models with expert choice.

    Raises:
        UserError: a router uses expert choice.
    """
    if any(router.expert_choice for router in routers):
        raise UserError(
            f"balancing by {strategy} needs tokens that choose experts, but with experts.topk_method=expert_choice "
            "experts choose tokens; use balancing=expert_choice, or experts.topk_method=noaux_tc."
        )


def refuse_any_number(routers: Sequence[Router], strategy: str) -> None:
    """Reject models in which a token uses any number of experts that it chooses.

    Raises:
        UserError: a router has thresholds or zero experts.
    """
    if any(router.by_threshold for router in routers):
        raise UserError(
            f"balancing by {strategy} needs tokens that all have the same number of experts, but with "
            "experts.topk_method=threshold each has those above their thresholds; use balancing=expert_threshold, or "
            "experts.topk_method=noaux_tc."
        )
    if any(router.zeros for router in routers):
        raise UserError(
            f"balancing by {strategy} needs tokens that all have the same number of experts, but with "
            "experts.topk_method=zero_experts some of a token's experts compute nothing; use balancing=zero_experts, "
            "or experts.topk_method=noaux_tc."
        )


def require_choice_by_score(routers: Sequence[Router], strategy: str) -> None:
    """Reject models in which a token's experts are not the top K of ``s + bias``.

    Raises:
        UserError: a router uses expert choice, hash routing, thresholds or zero experts.
    """
    refuse_expert_choice(routers, strategy)
    refuse_any_number(routers, strategy)
    if any(router.table is not None for router in routers):
        raise UserError(
            f"balancing by {strategy} needs tokens that choose experts by score, but with experts.topk_method=hash "
            "their ids do; use balancing=hash, or experts.topk_method=noaux_tc."
        )


def require_added_bias(routers: Sequence[Router], strategy: str) -> None:
    """Reject models in which the bias is not added to the affinity.

    Raises:
        UserError: a router combines them otherwise.
    """
    for router in routers:
        if router.bias_form != "sum":
            raise UserError(
                f"balancing by {strategy} solves for a bias that is added to the affinity, found experts.bias_form="
                f"{router.bias_form}; use experts.bias_form=sum or a rule such as balancing=loss_free."
            )


def refuse_groups(routers: Sequence[Router], strategy: str) -> None:
    """Reject models with node-limited routing, where a token can use only some groups of experts.

    Raises:
        UserError: a router limits groups.
    """
    for router in routers:
        if router.top_groups < router.groups:
            raise UserError(
                f"balancing by {strategy} does not support expert groups, found experts.n_group={router.groups} with "
                f"experts.topk_group={router.top_groups}; use experts.n_group=1 or another strategy."
            )
