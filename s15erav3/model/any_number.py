"""Routings in which a token uses any number of routed experts: how many slots they have, and what they need.

The functions take a :class:`~s15erav3.model.config.ModelConfig`.

Shapes: E routed experts, K experts per token on average, Z zero experts.
"""

from __future__ import annotations

from typing import Any

from s15erav3.model.checks import ConfigError

SLOTS = ("threshold", "zero_experts")
"""Values of ``topk_method`` with which a token has a fixed number of slots and uses any number of them."""


def slots_per_token(config: Any) -> int:
    """Width of a routing: K, or the most experts that a token can have where their number differs."""
    k = config.num_experts_per_tok
    if config.topk_method == "threshold":
        return int(config.max_experts_per_tok or min(config.n_routed_experts, 2 * k))
    if config.topk_method == "zero_experts":
        return int(config.max_experts_per_tok or (3 * k + 1) // 2)
    return int(k)


def zero_experts(config: Any) -> int:
    """Z: experts that return their input; 0 unless ``topk_method`` is ``zero_experts``."""
    if config.topk_method != "zero_experts":
        return 0
    return int(config.n_zero_experts or (config.n_routed_experts + 1) // 2)


def check_number_of_experts(config: Any) -> None:
    """Check what depends on a number of experts that differs between tokens.

    Raises:
        ConfigError: two settings contradict each other.
    """
    method, most, k, experts = (
        config.topk_method,
        config.max_experts_per_tok,
        config.num_experts_per_tok,
        config.n_routed_experts,
    )
    if not config.fixed_top_k and (config.n_group > 1 or config.norm_topk_prob):
        raise ConfigError(
            f"topk_method={method} needs n_group=1 and norm_topk_prob=false, found n_group="
            f"{config.n_group} and norm_topk_prob={config.norm_topk_prob}: a token has no fixed number of experts there"
        )
    if method != "threshold" and config.scoring_func == "relu":
        raise ConfigError(f"scoring_func=relu is for topk_method=threshold, found {method}")
    if method != "zero_experts" and config.n_zero_experts is not None:
        raise ConfigError(f"n_zero_experts={config.n_zero_experts} is for topk_method=zero_experts, found {method}")
    if method not in SLOTS:
        if most is not None:
            raise ConfigError(f"max_experts_per_tok={most} is for topk_method={' or '.join(SLOTS)}, found {method}")
        return
    if config.bias_form != "sum":
        raise ConfigError(f"topk_method={method} needs bias_form=sum, found {config.bias_form}")
    if method == "threshold":
        if most is not None and not k <= most <= experts:
            raise ConfigError(
                f"max_experts_per_tok={most} must be from num_experts_per_tok={k} to n_routed_experts="
                f"{experts}, or null"
            )
        if k == experts:
            raise ConfigError(f"topk_method=threshold needs num_experts_per_tok={k} below n_routed_experts")
        return
    slots, zeros = slots_per_token(config), zero_experts(config)
    if not k < slots <= k + zeros:
        raise ConfigError(
            f"max_experts_per_tok={slots} must be above num_experts_per_tok={k}, by at most n_zero_experts={zeros}: a "
            "token has that many experts, and on average all but num_experts_per_tok of them are zero experts"
        )
