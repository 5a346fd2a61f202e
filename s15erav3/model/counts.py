"""Parameter and FLOP counts of a model, computed from its config."""

from __future__ import annotations

from typing import NamedTuple

from s15erav3.model.config import ModelConfig


class Counts(NamedTuple):
    """Parameter counts (router biases are buffers and not included)."""

    total: int
    active: int
    """Parameters active for one token: of the routed experts only the K chosen ones."""
    embedding: int
    """Input embedding table, included in both counts above; a tied head shares this table."""
    mtp: int
    """Multi-token-prediction blocks, included in ``total`` only: inference does not run them by default."""


def count_parameters(config: ModelConfig) -> Counts:
    """Count the parameters of ``Transformer(config)`` without building it."""
    hidden, heads = config.hidden_size, config.num_heads
    q_out = heads * config.qk_head_dim
    if config.q_lora_rank is None:
        query = hidden * q_out
    else:
        query = config.q_lora_rank * (hidden + 1 + q_out)
    kv_down = hidden * (config.kv_lora_rank + config.qk_rope_head_dim) + config.kv_lora_rank
    kv_up = config.kv_lora_rank * heads * (config.qk_nope_head_dim + config.v_head_dim)
    attention = query + kv_down + kv_up + heads * config.v_head_dim * hidden
    if config.attention_bias:
        attention += (config.q_lora_rank or 0) + config.kv_lora_rank + config.qk_rope_head_dim + hidden
    block = attention + 2 * hidden
    joint = 2 * hidden * hidden + 3 * hidden  # of a multi-token-prediction block: projection, norms

    moe_layers, ahead = config.num_moe_layers, config.num_nextn_predict_layers
    dense = (config.num_layers - moe_layers) * 3 * hidden * config.intermediate_size
    embedding = config.vocab_size * hidden
    head = 0 if config.tie_word_embeddings else embedding
    common = embedding + head + hidden + config.num_layers * block + dense
    if not moe_layers:
        mtp = ahead * (joint + block + 3 * hidden * config.intermediate_size)
        return Counts(common + mtp, common, embedding, mtp)
    expert = 3 * hidden * config.expert_size
    router = (config.n_routed_experts + config.zero_experts) * hidden
    common += moe_layers * (router + config.n_shared_experts * expert)
    mtp = ahead * (joint + block + router + (config.n_shared_experts + config.n_routed_experts) * expert)
    return Counts(
        total=common + moe_layers * config.n_routed_experts * expert + mtp,
        active=common + moe_layers * config.num_experts_per_tok * expert,
        embedding=embedding,
        mtp=mtp,
    )


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Floating-point operations to train on one token: one forward pass, and twice that for the backward pass.

    Two per active weight in a matrix product (the input table is a lookup, the head is a product), and
    causal attention over half the sequence on average. Norms, activations and the optimizer are left
    out, as is usual in model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B).
    """
    counts, ahead = count_parameters(config), config.num_nextn_predict_layers
    weights = counts.active if config.tie_word_embeddings else counts.active - counts.embedding
    if ahead:  # each block uses its own weights (K of the routed experts) and the head
        unused = max(0, config.n_routed_experts - config.num_experts_per_tok) * 3 * config.hidden_size
        weights += counts.mtp + ahead * (config.vocab_size * config.hidden_size - unused * config.expert_size)
    layers = config.num_layers + ahead
    attention = layers * config.num_heads * (config.qk_head_dim + config.v_head_dim)
    return 3.0 * (2.0 * weights + 2.0 * attention * sequence_length / 2)
