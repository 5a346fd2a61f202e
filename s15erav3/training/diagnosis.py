"""Where a step that is not finite went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from s15erav3.balancing.base import alone

if TYPE_CHECKING:
    from s15erav3.training.module import LanguageModule


def first_bad_part(module: LanguageModule, batch: Tensor) -> str | None:
    """Run a step's batch once more, as the weights still are: which layer, loss or gradient is bad first.

    ``None`` if none is on this rank. Ranks find that out each for itself: they stop at different places.

    Args:
        batch: windows (B, T + 1).
    """
    net, progress = module.net, module.progress
    bad: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not torch.isfinite(output[0]).all():
                bad.append(name)

        return look

    hooks = [layer.register_forward_hook(watch(f"layer {i:02d}")) for i, layer in enumerate(net.layers)]
    ahead = module.multi_token_loss
    count = None if ahead is None else ahead.count(batch, len(net.mtp))
    names, parameters = zip(*((n, p) for n, p in net.named_parameters() if p.requires_grad), strict=True)
    sums: list[Tensor | None] = [None] * len(names)
    net.train()
    try:
        with torch.inference_mode(False), torch.enable_grad(), alone():
            for windows in batch.chunk(module.micro_batches):
                with module.trainer.precision_plugin.train_step_context():
                    loss = module.objective(windows, batch, count, progress).loss
                if bad or not torch.isfinite(loss):
                    return [*bad, "the loss"][0]
                # Not backward(): DDP's hooks on the parameters would call for the other ranks.
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
