"""Ablation against a model that is itself changed: a router that cannot choose the expert, an expert that returns 0."""

from __future__ import annotations

import copy
import dataclasses
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from s15erav3.analysis.ablation import Mode, ablate, impossible
from s15erav3.analysis.measure import token_nll
from s15erav3.balancing.routing_diagnostics import chosen
from s15erav3.model import ModelConfig, Router, Transformer, routers
from s15erav3.model.moe import MoE
from tests.analysis.test_measure import BY_EXPERTS, CONFIG, made, text

GROUPS = dataclasses.replace(CONFIG, n_routed_experts=6, n_group=3, topk_group=2)
ALONE = dataclasses.replace(CONFIG, n_shared_experts=0, norm_topk_prob=False, scoring_func="softmax")
AHEAD = dataclasses.replace(CONFIG, num_nextn_predict_layers=1)


def without(net: Transformer, layer: int, expert: int, mode: Mode) -> Transformer:
    """A copy whose layer ``layer`` (by position) lacks the expert: the whole forward runs with it."""
    changed = copy.deepcopy(net)
    moe = [block.mlp for block in changed.layers if isinstance(block.mlp, MoE)][layer]
    if mode == "zero":
        moe.experts.down_proj.data[expert] = 0
    else:
        masked: Router = moe.router
        limited = masked._limited

        def never(preference: Tensor) -> Tensor:
            closed = torch.zeros(preference.shape[1], dtype=torch.bool)
            closed[expert] = True
            return limited(preference.masked_fill(closed, float("-inf")))

        masked._limited = never  # type: ignore[method-assign]
    return changed


def costs(net: Transformer) -> Tensor:
    """Nats of each token of the text."""
    with torch.no_grad():
        return torch.cat([
            token_nll(net(batch[:, :-1]).hidden.flatten(0, 1), net.lm_head.weight, batch[:, 1:].flatten())
            for batch in text()[2]
        ])  # fmt: skip


CASES = [
    *((CONFIG, "reroute"), (CONFIG, "zero"), (GROUPS, "reroute"), (GROUPS, "zero"), (ALONE, "reroute")),
    *((ALONE, "zero"), (BY_EXPERTS, "zero"), (AHEAD, "reroute")),
]


@pytest.mark.parametrize(("config", "mode"), CASES)
def test_each_expert_costs_what_a_model_without_it_costs_more(config: ModelConfig, mode: Mode) -> None:
    """Each token is a cell of its own. Seen to fail with the weights of the old experts, the bias in the weights, no
    shared expert, a neighbour's layer, and the sum over the rows that lose the expert alone in an earlier layer."""
    net = made(config).double()
    for parameter in net.parameters():
        parameter.data *= 4  # so that an expert matters
    whole = costs(net)
    n = len(whole)
    found = ablate(net, text()[2], torch.arange(n)[None], n, mode=mode, autocast=nullcontext)
    torch.testing.assert_close(found.whole, whole.double())
    for layer in range(2):
        for expert in range(config.n_routed_experts):
            expected = costs(without(net, layer, expert, mode)) - whole
            torch.testing.assert_close(found.more[layer, expert], expected.double(), rtol=1e-4, atol=1e-6)
    assert (found.more != 0).any(dim=-1).any(dim=-1).all(), "each layer has experts that matter"


def test_cells_are_sums_over_their_tokens() -> None:
    """Two divisions of the text at once, batches that follow each other: catches a division that overwrites the other,
    and cells that start anew with each batch."""
    net = made()
    n = len(costs(net))
    single = ablate(net, text()[2], torch.arange(n)[None], n, mode="zero", autocast=nullcontext)
    thirds, last = torch.arange(n) % 3, torch.full((n,), 3)
    found = ablate(net, text()[2], torch.stack([thirds, last]), 4, mode="zero", autocast=nullcontext)
    for cell in range(3):
        torch.testing.assert_close(found.more[..., cell], single.more[..., thirds == cell].sum(dim=-1))
        torch.testing.assert_close(found.whole[cell], single.whole[thirds == cell].sum())
    torch.testing.assert_close(found.more[..., 3], single.more.sum(dim=-1))


@pytest.mark.parametrize("config", [CONFIG, BY_EXPERTS], ids=["tokens choose", "experts choose"])
def test_uses_are_those_of_the_token_that_predicts(config: ModelConfig) -> None:
    """Cells of single targets: the assignments of the token before it. Catches experts and cells exchanged."""
    net = made(config)
    n = len(costs(net))
    found = ablate(net, text()[2], torch.arange(n)[None], n, mode="zero", autocast=nullcontext)
    with torch.no_grad():
        used = torch.cat([torch.stack([chosen(r) for r in net(b[:, :-1]).routings]) for b in text()[2]], dim=1)
    assert torch.equal(found.uses, used.long().transpose(1, 2))


def test_a_dead_expert_costs_nothing() -> None:
    """And nothing is run for it: no rows, no error."""
    net = made()
    routers(net)[0].bias.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0]))
    n = len(costs(net))
    found = ablate(net, text()[2], torch.zeros(1, n, dtype=torch.int64), 1, mode="reroute", autocast=nullcontext)
    assert found.more[0, 2:].tolist() == [[0.0], [0.0]] and (found.more[0, :2] != 0).all()


def test_what_cannot_be_ablated_is_said() -> None:
    """Catches an expert that is chosen in its own absence, as top-k always finds K."""
    dense = dataclasses.replace(
        CONFIG, n_routed_experts=0, num_experts_per_tok=0, n_shared_experts=0, first_k_dense_replace=0,
        moe_intermediate_size=None,
    )  # fmt: skip
    assert "no experts" in impossible(dense, "zero")
    assert "ablate_mode=zero" in impossible(BY_EXPERTS, "reroute") and not impossible(BY_EXPERTS, "zero")
    everyone = dataclasses.replace(CONFIG, num_experts_per_tok=4)
    assert "all 4 experts" in impossible(everyone, "reroute") and not impossible(everyone, "zero")
    tight = dataclasses.replace(GROUPS, topk_group=1)
    assert "all 2 experts" in impossible(tight, "reroute") and not impossible(GROUPS, "reroute")
