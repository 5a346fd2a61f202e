"""The groups ``model`` and ``experts``: model size and expert routing.

The model itself checks which sizes are compatible (:class:`s15erav3.model.ModelConfig`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge
from typing_extensions import Doc, TypedDict

from s15erav3.cli.schema.kinds import AtLeastOne, Count, Must, NotNegative, Positive, Real, closed

YARN = Must("null or settings, as in {factor: 4, original_max_position_embeddings: 256}")


@closed
class Model(TypedDict, total=False):
    """Widths, depth, heads and latent ranks, with DeepSeek-V3's names."""

    hidden_size: Annotated[AtLeastOne, Doc("width of the residual stream, a multiple of 8 and of num_heads")]
    num_layers: Annotated[AtLeastOne, Doc("transformer layers")]
    num_heads: Annotated[AtLeastOne, Doc("attention heads")]
    q_lora_rank: Annotated[AtLeastOne | None, Doc("width of the queries' latent; null: queries without one")]
    kv_lora_rank: Annotated[AtLeastOne, Doc("width of the latent that keys and values share, and that is cached")]
    qk_nope_head_dim: Annotated[AtLeastOne, Doc("width of a head's query and key without position")]
    qk_rope_head_dim: Annotated[AtLeastOne, Doc("width of a head's rotary query and key, an even number")]
    v_head_dim: Annotated[AtLeastOne, Doc("width of a head's value")]
    intermediate_size: Annotated[AtLeastOne, Doc("width of a dense layer's SwiGLU, a multiple of 8")]
    max_position_embeddings: Annotated[AtLeastOne, Doc("longest sequence in tokens")]
    rope_theta: Annotated[Positive, Doc("base of the rotary frequencies, not 1")]
    rope_scaling: Annotated[Mapping[str, Any] | None, YARN, Doc("extension of the context by YaRN; null: none")]
    attention_bias: Annotated[bool, Doc("whether attention's projections have a bias")]
    rms_norm_eps: Annotated[Positive, Doc("added to the mean square in RMSNorm")]
    tie_word_embeddings: Annotated[bool, Doc("whether embedding and output head are one matrix")]
    initializer_range: Annotated[Positive, Doc("standard deviation of the initial weights")]
    num_nextn_predict_layers: Annotated[Count, Doc("multi-token-prediction blocks; DeepSeek-V3 has 1")]


@closed
class RopeScaling(TypedDict, total=False):
    """YaRN (arXiv 2309.00071) with DeepSeek's two magnitude terms."""

    factor: Annotated[Real, Ge(1), Doc("how many times longer the context becomes")]
    original_max_position_embeddings: Annotated[AtLeastOne, Doc("longest sequence before the extension, in tokens")]
    beta_fast: Annotated[Positive, Doc("pairs of more turns than this over the original context keep their frequency")]
    beta_slow: Annotated[Positive, Doc("pairs of fewer turns than this over the original context are slowed by factor")]
    mscale: Annotated[Positive, Doc("weight of the magnitude of queries and keys")]
    mscale_all_dim: Annotated[NotNegative, Doc("weight of the magnitude of attention's logits")]


@closed
class Experts(TypedDict, total=False):
    """Number of experts, and how tokens are routed to them."""

    n_routed_experts: Annotated[Count, Doc("experts that tokens choose among in a layer; 0: a dense model")]
    num_experts_per_tok: Annotated[Count, Doc("routed experts per token, at most n_routed_experts")]
    n_shared_experts: Annotated[Count, Doc("experts that process every token")]
    moe_intermediate_size: Annotated[
        AtLeastOne | None,
        Doc("width of an expert; null: model.intermediate_size / (num_experts_per_tok + n_shared_experts)"),
    ]
    first_k_dense_replace: Annotated[Count, Doc("number of first layers that stay dense")]
    n_group: Annotated[AtLeastOne, Doc("equal groups of experts, of which a token may use topk_group")]
    topk_group: Annotated[AtLeastOne, Doc("groups that a token may use, at most n_group")]
    topk_method: Annotated[
        Literal["noaux_tc", "expert_choice", "hash", "threshold", "zero_experts"],
        Doc("noaux_tc: top K by score; threshold: all above one; zero_experts; hash: by token id; expert_choice"),
    ]
    max_experts_per_tok: Annotated[
        AtLeastOne | None,
        Doc("most experts of a token; null: twice num_experts_per_tok with threshold, 1.5 times with zero_experts"),
    ]
    n_zero_experts: Annotated[
        AtLeastOne | None,
        Doc("experts that return their input, with topk_method=zero_experts; null: half of n_routed_experts"),
    ]
    scoring_func: Annotated[
        Literal["sigmoid", "softmax", "sqrtsoftplus", "relu"],
        Doc("function from the router's logits to affinities; relu: with topk_method=threshold"),
    ]
    router_init: Annotated[
        Literal["normal", "orthogonal"],
        Doc("initial router weights: normal, or orthonormal rows (columns if there are more experts than hidden_size)"),
    ]
    bias_form: Annotated[
        Literal["sum", "product", "logits"],
        Doc("how affinity s and bias b choose experts: s + b; s (1 + b); the logit of s, plus b"),
    ]
    routed_scaling_factor: Annotated[Positive, Doc("factor on the summed output of the routed experts")]
    norm_topk_prob: Annotated[bool, Doc("whether a token's gate weights are divided by their sum")]
