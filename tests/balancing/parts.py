"""Routers and routings to try strategies on, and the auxiliary loss as its papers write it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from s15erav3.balancing import MicroBatch
from s15erav3.model import ModelConfig, Router, Routing

Rows = list[list[float]]


def config(experts: int, k: int, **values: Any) -> ModelConfig:
    """A model of one layer, 16 wide, whose experts are 8 wide."""
    return ModelConfig.from_dict(
        {
            "vocab_size": 8,
            "hidden_size": 16,
            "num_layers": 1,
            "num_heads": 1,
            "kv_lora_rank": 4,
            "qk_nope_head_dim": 4,
            "qk_rope_head_dim": 4,
            "v_head_dim": 4,
            "intermediate_size": 8,
            "n_routed_experts": experts,
            "num_experts_per_tok": k,
            "moe_intermediate_size": 8,
            **values,
        }
    )


def softmax_config(experts: int, k: int = 1, **values: Any) -> ModelConfig:
    """The same with the gate of Switch and expert choice."""
    return config(experts, k, **{"scoring_func": "softmax", "norm_topk_prob": False, **values})


def skewed(experts: int, k: int, seed: int, **values: Any) -> tuple[Router, Tensor]:
    """A router whose scores favour the first experts by far, and its tokens (512, 16)."""
    generator = torch.Generator().manual_seed(seed)
    router = Router(config(experts, k, **values))
    torch.nn.init.normal_(router.weight, std=0.3, generator=generator)
    with torch.no_grad():
        router.weight[:, 0] += torch.linspace(1, -1, experts)
    x = torch.randn(512, 16, generator=generator)
    x[:, 0] = 2.0
    return router, x


def reader(experts: int, k: int, **values: Any) -> Router:
    """A router whose logits are the first numbers of its input: what a test writes down is what is scored."""
    router = Router(config(experts, k, **values))
    with torch.no_grad():
        router.weight.copy_(torch.eye(experts, 16))
    return router


def inputs(logits: Rows | Tensor) -> Tensor:
    """Tokens (N, 16) whose logits by a :func:`reader` are these (N, E)."""
    logits = torch.as_tensor(logits)
    return torch.nn.functional.pad(logits, (0, 16 - logits.shape[1]))


def routing_of(scores: Rows | Tensor, k: int, bias: list[float] | None = None) -> Routing:
    """What a router decides whose affinities are ``scores`` (N, E), weights unnormalised."""
    scores = torch.as_tensor(scores)
    b = torch.tensor(bias) if bias else torch.zeros(scores.shape[1])
    experts = (scores.detach() + b).topk(k).indices
    load = torch.bincount(experts.flatten(), minlength=scores.shape[1])
    return Routing(scores, experts, scores.gather(1, experts), load, scores.logit(), b)


def micro_batch(*routings: Routing, sequences: int = 1) -> MicroBatch:
    """Routings of one forward pass."""
    return MicroBatch(routings, sequences)


def random_scores(tokens: int, experts: int, seed: int) -> Tensor:
    """Affinities (N, E) in float64 that carry gradients and differ much in size."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(tokens, experts, dtype=torch.float64, generator=generator)
    return logits.sigmoid().requires_grad_()


def naive_f(routing: Routing) -> Tensor:
    """f_i = E / (K N) times the tokens that chose i, counted one by one: plain numbers without a graph."""
    n, experts = routing.scores.shape
    chosen = routing.experts.tolist()
    k = len(chosen[0])
    counts = [sum(row.count(i) for row in chosen) for i in range(experts)]
    return torch.tensor([experts * count / (k * n) for count in counts], dtype=torch.float64)


def naive_p(routing: Routing) -> Tensor:
    """P_i = mean over tokens of s_i / sum_j s_j, with its graph."""
    rows = [row / sum(row[i] for i in range(len(row))) for row in routing.scores]
    total: Tensor = sum(rows[1:], rows[0])
    return total / len(rows)
