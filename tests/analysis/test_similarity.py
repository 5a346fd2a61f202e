"""Pairwise expert similarity against cosines of single pairs, and its limits."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from s15erav3.analysis.similarity import output_similarity
from s15erav3.model.moe import MoE
from tests.analysis.test_measure import made, text


def test_it_is_the_mean_over_pairs_and_tokens() -> None:
    """Each expert runs as the only one of a layer that sends every token to it. Catches pairs with themselves, the
    layer's output instead of its input, and layers of another order. Fails without the sum of squares."""
    net = made()
    ids = text()[2][0][:, :-1]
    found = output_similarity(net, ids)
    layers = [block.mlp for block in net.layers if isinstance(block.mlp, MoE)]
    expected = []
    with torch.no_grad():
        for moe in layers:
            inputs: list[torch.Tensor] = []
            handle = moe.register_forward_pre_hook(lambda _, given, kept=inputs: kept.append(given[0]))
            net(ids)
            handle.remove()
            alone = copy.deepcopy(moe)
            alone.router.top_k, alone.shared_experts = 1, None
            outputs = []
            for expert in range(4):
                alone.router.bias.fill_(0)[expert] = 9
                outputs.append(alone(inputs[0])[0].flatten(0, 1).double())
            pairs = [F.cosine_similarity(outputs[i], outputs[j]).mean() for i in range(4) for j in range(i)]
            expected.append(torch.stack(pairs).mean())
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert not any(moe._forward_hooks for moe in layers)


def test_copies_are_alike_and_opposites_are_not() -> None:
    """1 for four copies of one expert; -1/3 if two of the four have the opposite sign, as two pairs of six agree."""
    net = made()
    for moe in (block.mlp for block in net.layers if isinstance(block.mlp, MoE)):
        for stack in (moe.experts.gate_up_proj, moe.experts.down_proj):
            stack.data.copy_(stack.data[:1].expand_as(stack).clone())
    ids = text()[2][0][:, :-1]
    assert output_similarity(net, ids).tolist() == pytest.approx([1.0, 1.0])
    for moe in (block.mlp for block in net.layers if isinstance(block.mlp, MoE)):
        moe.experts.down_proj.data[2:] *= -1
    assert output_similarity(net, ids).tolist() == pytest.approx([-1 / 3, -1 / 3])
