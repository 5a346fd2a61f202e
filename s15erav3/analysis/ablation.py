"""Causal ablation: what each token of a text costs when one expert of one layer is removed.

Shapes: B sequences of T tokens, N = B * T tokens, L MoE layers, E routed experts, D hidden, C cells of the text, S
cells that a token belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from s15erav3.analysis.measure import token_nll
from s15erav3.balancing.routing_diagnostics import slots
from s15erav3.model import ModelConfig, Routing, Transformer
from s15erav3.model.block import Block
from s15erav3.model.moe import MoE
from s15erav3.model.rope import rope_angles

Mode = Literal["reroute", "zero"]
"""``reroute``: the expert's tokens go to their next best expert, with the weights of their new choice. ``zero``: its
output is 0, and the weights of the other experts stay as they are."""


class Costs(NamedTuple):
    """Nats of the cells of a text, fp64, and their assignments, on the CPU."""

    whole: Tensor
    """With all experts, (C,)."""
    more: Tensor
    """What each cell costs more without the expert, (L, E, C)."""
    uses: Tensor
    """Assignments of the tokens that predict the cell's targets to the expert, int64, (L, E, C)."""


def impossible(config: ModelConfig, mode: Mode) -> str:
    """Say why the experts of a model cannot be ablated, and what to do; empty if they can be."""
    if not config.num_moe_layers:
        return "the model has no experts; choose a run with experts, such as experts=e8"
    if mode == "reroute" and not config.chooses_by_score:
        return "here tokens do not choose experts by score, so there is no next best expert; use ablate_mode=zero"
    usable = config.n_routed_experts // config.n_group * config.topk_group
    if mode == "reroute" and usable == config.num_experts_per_tok:
        return (
            f"a token uses all {usable} experts that it can choose, so there is no next best one; use ablate_mode=zero"
        )
    return ""


@torch.no_grad()
def ablate(
    net: Transformer,
    batches: Iterable[Tensor],
    cells: Tensor,
    count: int,
    *,
    mode: Mode,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Costs:
    """Remove each expert in turn, and add up the change of the cost over cells of the text.

    What comes before the ablated layer is computed once for all of its experts. Only the tokens that lose an expert
    pass through the layer's experts again, and all tokens through the later layers. In the last layer only the former
    change.

    Args:
        net: model in evaluation mode that :func:`impossible` has nothing against; everything runs on its device.
        batches: consecutive windows (B, T + 1).
        cells: the cells of each target, in order: ids below ``count``, int64, (S, number of targets).
    """
    device, config = net.lm_head.weight.device, net.config
    whole = torch.zeros(count, dtype=torch.float64, device=device)
    more = torch.zeros(config.num_moe_layers, config.n_routed_experts, count, dtype=torch.float64, device=device)
    uses = torch.zeros_like(more, dtype=torch.int64)
    seen = 0
    for batch in batches:
        windows = batch.to(device)
        ids, targets = windows[:, :-1], windows[:, 1:].flatten()
        places = cells[:, seen : seen + len(targets)].to(device)
        seen += len(targets)
        with autocast():
            out = net(ids)
            cost = token_nll(out.hidden.flatten(0, 1), net.lm_head.weight, targets)
            _add(whole, places, cost.double())
            for count_of, routing in zip(uses, out.routings, strict=True):
                token, expert = slots(routing)
                _add(count_of.view(-1), expert * count + places[:, token], torch.ones_like(expert))
            for layer, e, rows, without in _removals(net, ids, targets, mode):
                _add(more[layer, e], places[:, rows], (without - cost[rows]).double())
    return Costs(whole.cpu(), more.cpu(), uses.cpu())


def _add(sums: Tensor, places: Tensor, values: Tensor) -> None:
    """Add values (N,) to each of their cells, (S, N)."""
    sums.index_add_(0, places.flatten(), values.repeat(len(places)))


def _removals(net: Transformer, ids: Tensor, targets: Tensor, mode: Mode) -> Iterable[tuple[int, int, Tensor, Tensor]]:
    """Yield layer (by position), expert, the tokens whose cost can change, and their nats without the expert."""
    config, everything = net.config, torch.arange(ids.numel(), device=ids.device)
    positions = torch.arange(ids.shape[1], device=ids.device)
    angles = rope_angles(positions, config.qk_rope_head_dim, config.rope_theta, config.rope_scaling)
    x, layer = net.embed_tokens(ids), 0
    for number, block in enumerate(net.layers, start=1):
        assert isinstance(block, Block)
        if not isinstance(block.mlp, MoE):
            x, _ = block(x, *angles, ids=ids)
            continue
        middle = x + block.self_attn(block.input_layernorm(x), *angles)
        normed = block.post_attention_layernorm(middle)
        out, routing = block.mlp(normed, ids)
        x = middle + out
        later: Sequence[nn.Module] = list(net.layers)[number:]
        for expert in range(config.n_routed_experts):
            rows, without = remove(block.mlp, normed.flatten(0, 1), routing, expert, mode)
            if not len(rows):
                continue
            state = middle.flatten(0, 1)[rows] + without
            if later:
                state = x.flatten(0, 1).index_copy(0, rows, state.to(x.dtype)).view_as(x)
                for following in later:
                    state, _ = following(state, *angles, ids=ids)
                state, rows = state.flatten(0, 1), everything
            yield layer, expert, rows, token_nll(net.norm(state), net.lm_head.weight, targets[rows])
        layer += 1


def remove(moe: MoE, tokens: Tensor, routing: Routing, expert: int, mode: Mode) -> tuple[Tensor, Tensor]:
    """Run an MoE layer without one expert, for the tokens that this concerns.

    Args:
        tokens: the layer's input, (N, D).
        routing: of these tokens, with all experts.

    Returns:
        Ids of the R tokens, and the layer's output for them, (R, D).
    """
    router, experts, weights = moe.router, routing.experts, routing.weights
    if routing.tokens is not None:  # expert choice: slots are not rows of tokens
        rows = routing.tokens[experts == expert]
        found = moe.mix(tokens, routing._replace(weights=weights.masked_fill(experts == expert, 0)))[rows]
    else:
        if mode == "reroute":
            bias = routing.bias.clone()
            bias[expert] = float("-inf")
            experts = router.select(routing.scores, bias)
            weights = router.weigh(routing.scores, experts)
            # With groups, a token can lose its group without having chosen the expert.
            changed = experts.sort(dim=-1).values != routing.experts.sort(dim=-1).values
        else:
            weights = weights.masked_fill(experts == expert, 0)
            changed = experts == expert
        rows = changed.any(dim=-1).nonzero().squeeze(1)
        experts, weights = experts[rows], weights[rows]
        load = torch.bincount(experts.flatten(), minlength=len(routing.load))[: len(routing.load)]
        identity = None if routing.identity is None else routing.identity[rows]
        routing = routing._replace(experts=experts, weights=weights, load=load, identity=identity)
        found = moe.mix(tokens[rows], routing)
    return rows, found
