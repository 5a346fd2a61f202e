"""Locate the source of a non-finite step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s15erav3.balancing.base import alone
from s15erav3.model import Transformer
from s15erav3.training.shards import has_shards


def bad_part(
    net: Transformer,
    micro_batches: Iterable[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    loss_bad: bool,
    ranks: int,
) -> str:
    """Name what is not finite in a step, on any of the ``ranks``; ``loss_bad``: whether the loss was on this one."""
    part = None
    if not has_shards(net):  # no rank can run a sharded net on its own
        part = first_bad_part(net, micro_batches, loss_of)
    return first_of_ranks(part or ("the loss" if loss_bad else None), ranks) or "the norm of the gradient"


def first_bad_part(
    net: Transformer, micro_batches: Iterable[Tensor], loss_of: Callable[[Tensor], Tensor]
) -> str | None:
    """Repeat a step with the unchanged weights and name the first non-finite layer, loss or gradient.

    ``None`` if there is none on this rank. Each rank searches on its own, since ranks may stop at different places.

    Args:
        micro_batches: windows (B, T + 1) of each micro-batch.
        loss_of: the training loss of a micro-batch, with gradient.
    """
    bad: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not torch.isfinite(output[0]).all():
                bad.append(name)

        return look

    hooks = [layer.register_forward_hook(watch(f"layer {i:02d}")) for i, layer in enumerate(net.layers)]
    names, parameters = zip(*((n, p) for n, p in net.named_parameters() if p.requires_grad), strict=True)
    sums: list[Tensor | None] = [None] * len(names)
    net.train()
    try:
        with torch.inference_mode(False), torch.enable_grad(), alone():
            for windows in micro_batches:
                loss = loss_of(windows)
                if bad or not torch.isfinite(loss):
                    return [*bad, "the loss"][0]
                # Not backward(): DDP's hooks on the parameters would wait for the other ranks.
                parts = torch.autograd.grad(loss, parameters, allow_unused=True)
                for k, new in enumerate(parts):
                    if new is not None:
                        sums[k] = new if (old := sums[k]) is None else old + new
        for name, gradient in zip(names, sums, strict=True):
            if gradient is not None and not torch.isfinite(gradient).all():
                return f"the gradient of {name}"
    finally:
        for hook in hooks:
            hook.remove()
    return None


def first_of_ranks(part: str | None, ranks: int) -> str | None:
    """Return the part that the first rank with one found bad; the others see it only in the summed gradients."""
    found = [part] * ranks
    if ranks > 1:
        dist.all_gather_object(found, part)
    return next((name for name in found if name), None)
