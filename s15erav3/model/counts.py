"""Parameters and arithmetic of a model, from its config alone."""

from __future__ import annotations

from typing import NamedTuple

from s15erav3.model.config import ModelConfig


class Counts(NamedTuple):
    """Numbers of parameters (router biases are buffers and not among them)."""

    total: int
    active: int
    """What one token uses: of the routed experts only the K chosen ones."""
    embedding: int
    """The input table, counted in both numbers above; a tied head is the same table."""


def count_parameters(config: ModelConfig) -> Counts:
    """Parameters of ``Transformer(config)``, without building it."""
    hidden, heads = config.hidden_size, config.num_heads
    q_out = heads * config.qk_head_dim
    if config.q_lora_rank is None:
        query = hidden * q_out
    else:
        query = config.q_lora_rank * (hidden + 1 + q_out)
    kv_down = hidden * (config.kv_lora_rank + config.qk_rope_head_dim) + config.kv_lora_rank
    kv_up = config.kv_lora_rank * heads * (config.qk_nope_head_dim + config.v_head_dim)
    attention = query + kv_down + kv_up + heads * config.v_head_dim * hidden
    block = attention + 2 * hidden

    moe_layers = config.num_moe_layers
    dense = (config.num_layers - moe_layers) * 3 * hidden * config.intermediate_size
    embedding = config.vocab_size * hidden
    head = 0 if config.tie_word_embeddings else embedding
    common = embedding + head + hidden + config.num_layers * block + dense
    if not moe_layers:
        return Counts(common, common, embedding)
    expert = 3 * hidden * config.expert_size
    router = config.n_routed_experts * hidden
    common += moe_layers * (router + config.n_shared_experts * expert)
    return Counts(
        total=common + moe_layers * config.n_routed_experts * expert,
        active=common + moe_layers * config.num_experts_per_tok * expert,
        embedding=embedding,
    )


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Floating-point operations to train on one token: forward and twice that backward.

    Two per active weight that multiplies (the input table is looked up, the head multiplies), and
    causal attention over half the sequence on average. Norms, activations and the optimizer are left
    out, as is usual in model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B).
    """
    counts = count_parameters(config)
    weights = counts.active if config.tie_word_embeddings else counts.active - counts.embedding
    attention = config.num_layers * config.num_heads * (config.qk_head_dim + config.v_head_dim)
    return 3.0 * (2.0 * weights + 2.0 * attention * sequence_length / 2)
