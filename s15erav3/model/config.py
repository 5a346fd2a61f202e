"""The dimensions of a DeepSeek-V3 style transformer, checked before anything is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s15erav3.model.any_number import SLOTS, check_number_of_experts, slots_per_token, zero_experts
from s15erav3.model.checks import ConfigError, check_types, check_words, checked_keys
from s15erav3.model.rope import Yarn


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes, named as in DeepSeek-V3's own configuration (arXiv 2412.19437, section 4.2).

    ``n_routed_experts=0`` makes every layer a dense SwiGLU of ``intermediate_size``. With
    ``moe_intermediate_size=None`` an expert is ``intermediate_size / (num_experts_per_tok +
    n_shared_experts)`` wide. A token then costs the same as in the dense model for any number of experts,
    so values of ``n_routed_experts`` can be compared at equal active parameters.

    Raises:
        ConfigError: a size is not positive, or two sizes contradict each other.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    intermediate_size: int
    q_lora_rank: int | None = None
    n_routed_experts: int = 0
    n_shared_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int | None = None
    first_k_dense_replace: int = 0
    n_group: int = 1
    topk_group: int = 1
    topk_method: str = "noaux_tc"
    scoring_func: str = "sigmoid"
    routed_scaling_factor: float = 1.0
    norm_topk_prob: bool = True
    num_nextn_predict_layers: int = 0
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rope_scaling: Yarn | None = None
    attention_bias: bool = False
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    router_init: str = "normal"
    bias_form: str = "sum"
    max_experts_per_tok: int | None = None
    n_zero_experts: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from plain values.

        Raises:
            ConfigError: a key is unknown or missing, or the values are inconsistent.
        """
        values = checked_keys(cls, values, "the model")
        if isinstance(values.get("rope_scaling"), Mapping):
            values["rope_scaling"] = Yarn(**checked_keys(Yarn, values["rope_scaling"], "rope_scaling"))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, accepted by :meth:`from_dict`."""
        return dataclasses.asdict(self)

    @property
    def qk_head_dim(self) -> int:
        """Width of one head's query and key: the part without position plus the rotary part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the MoE layers, in the order of their routings.

        Multi-token-prediction blocks come last and continue the numbering, as in DeepSeek's checkpoints.
        """
        return tuple(i for i in range(self.num_layers + self.num_nextn_predict_layers) if self.is_moe_layer(i))

    @property
    def num_moe_layers(self) -> int:
        """L of the main model only, which is the part that evaluation runs."""
        return self.num_layers - self.first_k_dense_replace if self.n_routed_experts else 0

    def is_moe_layer(self, layer: int) -> bool:
        """Whether layer ``layer`` (from 0) routes its tokens to experts."""
        return self.n_routed_experts > 0 and layer >= self.first_k_dense_replace

    @property
    def expert_size(self) -> int:
        """Hidden width of one expert: ``moe_intermediate_size``, or derived from the dense width."""
        if self.moe_intermediate_size is not None:
            return self.moe_intermediate_size
        return self.intermediate_size // max(1, self.num_experts_per_tok + self.n_shared_experts)

    def __post_init__(self) -> None:
        may_be_zero = {
            "n_routed_experts",
            "n_shared_experts",
            "num_experts_per_tok",
            "first_k_dense_replace",
            "num_nextn_predict_layers",
        }
        check_types(self, may_be_zero)
        if not isinstance(self.rope_scaling, Yarn | None):
            raise ConfigError(
                f"rope_scaling={self.rope_scaling} must be null or settings, as in "
                "{factor: 4, original_max_position_embeddings: 256}"
            )
        self._check_attention()
        if self.n_routed_experts:
            self._check_experts()
        elif self.n_shared_experts or self.num_experts_per_tok or self.first_k_dense_replace:
            raise ConfigError(
                "n_routed_experts=0 makes a dense model, so n_shared_experts="
                f"{self.n_shared_experts}, num_experts_per_tok={self.num_experts_per_tok} and "
                f"first_k_dense_replace={self.first_k_dense_replace} must be 0 as well"
            )
        elif self.topk_method != "noaux_tc":
            raise ConfigError("n_routed_experts=0 leaves no experts to choose, so topk_method must be noaux_tc")

    def _check_attention(self) -> None:
        # Grouped GEMM on GPUs requires rows of 16 bytes (in bf16) for every operand.
        for name in ("hidden_size", "intermediate_size"):
            if getattr(self, name) % 8:
                raise ConfigError(f"{name}={getattr(self, name)} must be a multiple of 8")
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"hidden_size={self.hidden_size} must be divisible by num_heads={self.num_heads}")
        if self.rope_theta == 1:
            raise ConfigError("rope_theta=1 turns all pairs alike; take a greater one, such as 10000")
        if self.qk_rope_head_dim % 2:
            raise ConfigError(f"qk_rope_head_dim={self.qk_rope_head_dim} must be even: it is rotated in pairs")

    def _check_experts(self) -> None:
        k, shared = self.num_experts_per_tok, self.n_shared_experts
        if k == 0:
            raise ConfigError(f"num_experts_per_tok=0 routes no token, but n_routed_experts={self.n_routed_experts}")
        if k > self.n_routed_experts:
            raise ConfigError(
                f"num_experts_per_tok={k} exceeds n_routed_experts={self.n_routed_experts}: "
                "a token cannot choose more experts than there are"
            )
        if self.first_k_dense_replace >= self.num_layers:
            raise ConfigError(
                f"first_k_dense_replace={self.first_k_dense_replace} leaves no layer of num_layers="
                f"{self.num_layers} for the experts; lower it or take experts=dense"
            )
        if self.moe_intermediate_size is None and self.intermediate_size % (k + shared):
            raise ConfigError(
                f"intermediate_size={self.intermediate_size} is not divisible by num_experts_per_tok + "
                f"n_shared_experts = {k + shared}; set moe_intermediate_size yourself or change one of them"
            )
        if self.expert_size % 8:
            raise ConfigError(f"moe_intermediate_size={self.expert_size} must be a multiple of 8")
        check_words(self)
        if self.topk_method == "hash" and self.n_group > 1:
            raise ConfigError(f"topk_method=hash needs n_group=1, found {self.n_group}: its choice is not by score")
        check_number_of_experts(self)
        self._check_groups()

    @property
    def causal(self) -> bool:
        """Whether predictions depend on earlier tokens only."""
        return not self.n_routed_experts or self.topk_method != "expert_choice"

    @property
    def fixed_top_k(self) -> bool:
        """Whether each token has ``num_experts_per_tok`` experts; otherwise that is their mean where loads are even."""
        return not self.n_routed_experts or self.topk_method not in ("expert_choice", *SLOTS)

    @property
    def slots_per_token(self) -> int:
        """Width of a routing: ``num_experts_per_tok``, or the most experts that a token can have."""
        return slots_per_token(self)

    @property
    def zero_experts(self) -> int:
        """Z: experts of a layer that return their input, besides the routed ones."""
        return zero_experts(self)

    @property
    def chooses_by_score(self) -> bool:
        """Whether a token's experts are its top K by affinity and bias."""
        return self.topk_method == "noaux_tc"

    @property
    def adds_bias(self) -> bool:
        """Whether they are the top K of ``s + bias``."""
        return self.chooses_by_score and self.bias_form == "sum"

    def _check_groups(self) -> None:
        experts, groups, chosen = self.n_routed_experts, self.n_group, self.topk_group
        if experts % groups:
            raise ConfigError(f"n_routed_experts={experts} cannot be divided into n_group={groups} equal groups")
        if chosen > groups:
            raise ConfigError(f"topk_group={chosen} exceeds n_group={groups}: a token cannot choose more groups")
        if groups > 1 and experts // groups < 2:
            raise ConfigError(f"n_group={groups} leaves a single expert in a group; a group's score is of its best two")
        if chosen * (experts // groups) < self.num_experts_per_tok:
            raise ConfigError(
                f"topk_group={chosen} groups of {experts // groups} experts hold fewer than num_experts_per_tok="
                f"{self.num_experts_per_tok}; raise topk_group or lower n_group"
            )
