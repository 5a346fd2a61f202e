"""Share of the tokens of a fixed probe whose experts one optimizer step changed.

Shapes: N tokens, L MoE layers that validation runs, E routed experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as L
import torch
from torch import Tensor, nn

from s15erav3.balancing.routing_diagnostics import chosen
from s15erav3.model import Router, Routing, Transformer
from s15erav3.training.routing_metrics import TokenMean


class StepChurn(nn.Module):
    """Compare the experts of probe tokens before an optimizer step with those after it.

    ``whole`` compares the model before the step with the model after it, ``weights`` the model before the step with one
    that has its new weights and its old biases. In both, a token's input at a layer includes the effect of the layers
    below. Sets of experts are compared, so this covers every strategy, expert choice included.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.whole, self.weights = TokenMean(layers), TokenMean(layers)
        self.step: int | None = None
        """The step that is measured: optimizer steps done after it."""
        self._ids: Tensor | None = None
        self._experts: list[Tensor] = []
        self._biases: list[Tensor] = []

    def before_step(self, trainer: L.Trainer, net: Transformer, routers: Sequence[Router]) -> None:
        """Call :meth:`begin` with the first batch of a validation, if one follows the next step.

        Only the first rank's result counts. The others run their first batch too, as a sharded net needs all ranks.
        """
        step, loader = trainer.global_step + 1, trainer.val_dataloaders
        followed = step >= trainer.max_steps > 0 or step % (trainer.val_check_batch or 1) == 0
        if loader is None or not followed:
            return
        self.step = step
        if self._ids is None:
            self._ids = some_windows(next(iter(loader)))[:, :-1]
        # As in Lightning's validation, so that compiled blocks are not compiled again.
        inference = torch.inference_mode(trainer.fit_loop.epoch_loop.val_loop.inference_mode)
        with inference, trainer.precision_plugin.val_step_context():
            self.begin(net, routers, self._ids.to(trainer.strategy.root_device))

    @torch.no_grad()
    def begin(self, net: Transformer, routers: Sequence[Router], ids: Tensor) -> None:
        """Record the experts of the probe, ids (B, T), and the biases before a step, in evaluation mode."""
        with evaluation_mode(net):
            self._experts = [chosen(routing) for routing in net(ids).routings]
        self._biases = [router.bias.clone() for router in routers]

    @torch.no_grad()
    def finish(
        self,
        net: Transformer,
        routers: Sequence[Router],
        ids: Tensor,
        routings: Sequence[Routing],
        *,
        counts: bool = True,
    ) -> None:
        """Compare with the model after the step, which routed the probe as ``routings``; it is in evaluation mode.

        Args:
            counts: whether to add the result, as the first rank does.
        """
        after = [router.bias.clone() for router in routers]
        _set(routers, self._biases)
        try:
            moved_weights = net(ids).routings
        finally:
            _set(routers, after)
        if not counts:
            return
        for mean, now in ((self.whole, routings), (self.weights, moved_weights)):
            mean.update([_turned(*pair) for pair in zip(self._experts, now, strict=True)], ids.numel())

    def results(self) -> dict[str, Tensor]:
        """Both shares, mean over layers: fp64, scalars."""
        return {
            "balance/step_churn": self.whole.compute().mean(),
            "balance/weight_churn": self.weights.compute().mean(),
        }

    def reset(self) -> None:
        """Clear the sums."""
        self.whole.reset()
        self.weights.reset()


def some_windows(batch: Tensor) -> Tensor:
    """Windows (B, T + 1), or one of zeros in place of none.

    A rank may have no windows left. If the net is sharded, the others still need its part of the weights.
    """
    return batch if len(batch) else batch.new_zeros(1, batch.shape[1])


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and each of its modules back in its own mode at the end."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _turned(before: Tensor, after: Routing) -> Tensor:
    """Share of tokens whose set of experts differs from ``before``, bool, (N, E): fp64, scalar."""
    return (before != chosen(after)).any(dim=-1).double().mean()


def _set(routers: Sequence[Router], biases: Sequence[Tensor]) -> None:
    for router, bias in zip(routers, biases, strict=True):
        router.bias.copy_(bias)
