"""Redundancy of experts: how alike their outputs are.

Shapes: N tokens, L MoE layers, E routed experts, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from s15erav3.model import Transformer
from s15erav3.model.experts import RoutedExperts
from s15erav3.model.moe import MoE


@torch.no_grad()
def output_similarity(net: Transformer, ids: Tensor) -> Tensor:
    """Mean cosine between the outputs of two experts for the same token, over tokens and pairs: fp64, (L,).

    Pairwise expert similarity (PES) of SimBal (arXiv 2506.14038). Each expert is applied to every token, whether the
    token was routed to it or not, before the gate weight. The paper's text was not available: this follows summaries of
    it, so its figures may differ in which experts of a token are compared. 0 for unrelated outputs, 1 for equal ones.

    Args:
        net: in evaluation mode, with at least two experts.
        ids: (B, T), on its device.
    """
    found: list[Tensor] = []

    def listen(module: MoE, inputs: tuple[Tensor], _: object) -> None:
        found.append(pairwise_similarity(module.experts, inputs[0].flatten(0, 1)))

    handles = [block.mlp.register_forward_hook(listen) for block in net.layers if isinstance(block.mlp, MoE)]
    try:
        net(ids)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found).cpu()


def pairwise_similarity(experts: RoutedExperts, x: Tensor) -> Tensor:
    """Mean cosine over tokens (N, D) and pairs of experts: fp64, scalar.

    With unit vectors u_i, the sum of u_i u_j over i != j is |sum of u_i|^2 less the sum of |u_i|^2: no output has to be
    kept for all experts.
    """
    total = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    squares, count = total.new_zeros(len(x)), len(experts.down_proj)
    for out in _outputs(experts, x):
        unit = F.normalize(out.double(), dim=-1)
        total += unit
        squares += unit.square().sum(dim=-1)
    return ((total.square().sum(dim=-1) - squares) / (count * (count - 1))).mean()


def _outputs(experts: RoutedExperts, x: Tensor) -> Iterator[Tensor]:
    for gate_up, down in zip(experts.gate_up_proj, experts.down_proj, strict=True):
        gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
        yield F.linear(F.silu(gate) * up, down)
