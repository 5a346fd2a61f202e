"""What runs of 1, 16 and 671 billion parameters need: memory by part, time, and traffic between ranks, on paper.

Computed from the model's own counts (``count_parameters``, ``training_flops_per_token``); nothing was run.

    python scripts/scale_plan.py

Shapes: N ranks, of which EP share the experts; L MoE layers, K experts per token, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import OmegaConf

from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.model import ModelConfig, count_parameters, training_flops_per_token

STATE = {"weights, fp32": 4, "gradients, fp32": 4, "AdamW's moments, fp32": 8}
"""Bytes for each parameter, as this project trains: fp32 weights, bf16 autocast."""
PEAK, BANDWIDTH, MEMORY = 989.4e12, 50e9, 80e9
"""H100 SXM: dense bf16 FLOP/s (data sheet), bytes, and bytes/s of a 400 Gbit/s network card for each GPU."""
UTILISATION = 0.35
"""Share of the peak, an assumption."""


@dataclass(frozen=True)
class Plan:
    """A model, its tokens, and the ranks to spread it over."""

    name: str
    config: ModelConfig
    sequence: int
    tokens: float
    """Of the whole training."""
    ranks: int
    shared: int
    """EP: ranks that share one copy of the experts."""
    per_rank: int
    """Tokens of a rank's micro-batch."""


def plans() -> list[Plan]:
    """The three models: of our own, DeepSeek-V2-Lite's sizes (arXiv 2405.04434), DeepSeek-V3's (arXiv 2412.19437)."""
    heads = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    one = ModelConfig(
        vocab_size=50257, hidden_size=1024, num_layers=16, num_heads=8, kv_lora_rank=256, intermediate_size=2560,
        n_routed_experts=32, n_shared_experts=1, num_experts_per_tok=4, moe_intermediate_size=512,
        first_k_dense_replace=1, **heads,
    )  # fmt: skip
    lite = ModelConfig(
        vocab_size=102400, hidden_size=2048, num_layers=27, num_heads=16, kv_lora_rank=512, intermediate_size=10944,
        n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6, moe_intermediate_size=1408,
        first_k_dense_replace=1, tie_word_embeddings=False, **heads,
    )  # fmt: skip
    sizes, chosen = (OmegaConf.load(conf_dir() / f"{group}/deepseek_v3.yaml") for group in ("model", "experts"))
    sizes.pop("defaults")
    merged = OmegaConf.to_container(OmegaConf.merge(sizes, chosen, {"vocab_size": 129280}))
    third = ModelConfig.from_dict(merged)  # type: ignore[arg-type]
    return [
        Plan("1 B", one, 2048, 20e9, 8, 1, 16384),
        Plan("16 B", lite, 4096, 300e9, 64, 8, 8192),
        Plan("671 B", third, 4096, 14.8e12, 2048, 64, 4096),
    ]


def experts_of(config: ModelConfig) -> int:
    """Parameters of all routed experts, those of multi-token prediction included."""
    layers = config.num_moe_layers + config.num_nextn_predict_layers
    return layers * config.n_routed_experts * 3 * config.hidden_size * config.expert_size


def rows(plan: Plan) -> list[tuple[str, str]]:
    """Names and figures of one plan."""
    config, counts = plan.config, count_parameters(plan.config)
    experts = experts_of(config)
    state = sum(STATE.values())
    held = (counts.total - experts) / plan.ranks + experts / plan.ranks  # all of the state sharded
    layer = max(experts / plan.shared / max(1, config.num_moe_layers), (counts.total - experts) / config.num_layers)
    kept = config.num_layers * config.hidden_size * 2 * plan.per_rank  # inputs of the layers, the rest is recomputed
    flops = training_flops_per_token(config, plan.sequence)
    days = flops * plan.tokens / (plan.ranks * PEAK * UTILISATION) / 86400
    seconds = flops * plan.per_rank / (PEAK * UTILISATION)
    # Forward and backward each send a token's state to its K experts and back.
    away = (plan.shared - 1) / plan.shared
    exchange = 4 * config.num_moe_layers * config.num_experts_per_tok * config.hidden_size * 2 * plan.per_rank * away
    # Weights are gathered for forward and backward in bf16, gradients reduced in fp32; experts over N / EP ranks.
    copies = plan.ranks / plan.shared
    sharded = (2 * 2 + 4) * ((counts.total - experts) + experts / plan.shared * (copies > 1))
    giga = 1e9
    return [
        ("parameters, active", f"{counts.total / giga:,.1f} B, {counts.active / giga:,.1f} B"),
        ("share of the routed experts", f"{experts / counts.total:.0%}"),
        *((part, f"{size * counts.total / giga:,.0f} GB") for part, size in STATE.items()),
        ("state on one device", f"{state * counts.total / giga:,.0f} GB"),
        ("ranks, sharing the experts", f"{plan.ranks:,}, {plan.shared}"),
        ("state of a rank, all sharded", f"{state * held / giga:,.1f} GB"),
        ("weights of a layer while it runs, bf16", f"{2 * layer / giga:,.2f} GB"),
        ("kept activations of a micro-batch, bf16", f"{kept / giga:,.1f} GB ({plan.per_rank:,} tokens)"),
        ("FLOP per token", f"{flops / giga:,.1f} G"),
        ("days", f"{days:,.1f} ({plan.tokens / giga:,.0f} G tokens)"),
        ("seconds of a micro-batch", f"{seconds:.2f}"),
        ("exchanged with the experts' ranks", f"{exchange / giga:,.1f} GB, {exchange / BANDWIDTH:.2f} s"),
        ("gathered and reduced weights", f"{sharded / giga:,.1f} GB, {sharded / BANDWIDTH:.2f} s"),
    ]


def main() -> None:
    """Print the table in Markdown."""
    made = plans()
    columns = [rows(plan) for plan in made]
    print(f"| | {' | '.join(plan.name for plan in made)} |\n|{' --- |' * (len(made) + 1)}")
    for line in zip(*columns, strict=True):
        print(f"| {line[0][0]} | {' | '.join(value for _, value in line)} |")


if __name__ == "__main__":
    main()
