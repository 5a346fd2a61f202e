"""The LightningModule: one batch, one optimizer step, one bias update."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from s15erav3.balancing.base import (
    Balancer,
    MicroBatch,
    alone,
    of_trained,
    stack_loads,
    sum_over_ranks,
    update_biases,
)
from s15erav3.model import Output, RoutedExperts, Transformer, routers
from s15erav3.training.cuda_graph import RecordedPasses
from s15erav3.training.diagnosis import bad_part
from s15erav3.training.hosts import TimeLimit
from s15erav3.training.losses import chunked_cross_entropy
from s15erav3.training.mtp import Ahead, MultiTokenLoss
from s15erav3.training.nonfinite import Diverged, Guard, copies, put_back, skips_on_device
from s15erav3.training.records import Objective, Passes, StepRecord
from s15erav3.training.shards import whole
from s15erav3.training.step_churn import some_windows
from s15erav3.training.validation import Validation


class LanguageModule(L.LightningModule):
    """Train a :class:`Transformer` on windows of tokens.

    Optimization is manual, and a batch holds all micro-batches of one optimizer step. So gradients and loads
    are never partly accumulated between batches: a checkpoint is always taken between two whole steps, and biases
    are updated exactly once per completed step.

    A step whose loss or gradient is not finite changes nothing: not the weights, the optimizer's state, the biases
    or the balancer's buffers. If an optimizer cannot skip a step on the device (see
    :func:`~s15erav3.training.nonfinite.skips_on_device`), the host waits for each step to check whether it is finite.

    Args:
        net: the model.
        balancer: the balancing strategy.
        optimizer: creates the optimizer for a model. Its parameter groups contain ``initial_lr``.
        schedule: learning-rate factor as a function of (steps done, share of training done).
        byte_lengths: UTF-8 bytes of each token, (V,).
        multi_token_loss: loss of the multi-token-prediction blocks, if the net has any.
        micro_batches: number of parts of a batch; their gradients are averaged.
        gradient_clip: largest norm of the gradient; 0 disables clipping.
        loss_chunk, compiled_loss: number of tokens whose logits exist at one time; whether their loss is compiled.
        cuda_graphs: record the forward and backward passes of a step as a CUDA graph. Needs a GPU.
        skip_nonfinite: consecutive non-finite steps that are skipped before training ends with :class:`Diverged`.
    """

    byte_lengths: Tensor

    def __init__(
        self,
        net: Transformer,
        balancer: Balancer,
        *,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[int, float], float],
        byte_lengths: Tensor,
        multi_token_loss: MultiTokenLoss | None = None,
        micro_batches: int = 1,
        gradient_clip: float = 1.0,
        loss_chunk: int = 512,
        compiled_loss: bool = False,
        cuda_graphs: bool = False,
        skip_nonfinite: int = 0,
    ) -> None:
        super().__init__()
        self.guard = Guard(skip_nonfinite)
        self.automatic_optimization = False
        self.net, self.balancer = net, balancer
        self.make_optimizer, self.schedule = optimizer, schedule
        if net.config.num_nextn_predict_layers and multi_token_loss is None:
            raise ValueError("a model with multi-token-prediction blocks needs their loss")
        self.multi_token_loss = multi_token_loss if net.config.num_nextn_predict_layers else None
        self.micro_batches, self.gradient_clip = micro_batches, gradient_clip
        self.cross_entropy = partial(chunked_cross_entropy, chunk=loss_chunk, compiled=compiled_loss)
        self.graph = RecordedPasses(self.passes, net, balancer) if cuda_graphs else None
        self.register_buffer("byte_lengths", byte_lengths, persistent=False)
        self.routers = routers(net)
        if self.routers:
            balancer.attach_net(net)
            balancer.attach_experts([module for module in net.modules() if isinstance(module, RoutedExperts)])
            balancer.attach(self.routers)
        self.samples_seen = 0
        self.tokens_seen = 0
        self.last_step: StepRecord | None = None
        self.validation = Validation(net.config)

    def configure_optimizers(self) -> Optimizer:
        """The optimizer, over the net's parameters only."""
        return self.make_optimizer(self.net)

    def on_train_start(self) -> None:
        """Apply the configured optimizer settings instead of those loaded from a checkpoint."""
        optimizer: Any = self.optimizers()
        for group, fresh in zip(optimizer.param_groups, self.make_optimizer(self.net).param_groups, strict=True):
            group.update({key: value for key, value in fresh.items() if key != "params"})

    @property
    def progress(self) -> float:
        """Share of training done: by steps, or by time if a time limit is nearer."""
        done = self.trainer.global_step / max(1, self.trainer.max_steps)
        timed = (c.share for c in self.trainer.callbacks if isinstance(c, TimeLimit))  # type: ignore[attr-defined]
        return min(1.0, max([done, *timed]))

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Route the probe before a step that a validation follows."""
        if self.validation.step_churn is not None:
            self.validation.step_churn.before_step(self.trainer, self.net, self.routers)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """Run one optimizer step on windows (B, T + 1)."""
        optimizer: Any = self.optimizers()
        progress = self.progress
        factor = self.schedule(self.trainer.global_step, progress)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

        before = copies(self.balancer)
        run = self.passes if self.graph is None else self.graph
        nll, mtp_loss, balance_loss, loads, dropped = run(batch, self._ahead(batch, progress))

        limit = self.gradient_clip or float("inf")
        with torch.autocast(self.device.type, enabled=False):
            grad_norm = whole(nn.utils.clip_grad_norm_(self.net.parameters(), limit, foreach=True))
            loss = nll / batch[:, 1:].numel()
            bad = ~torch.isfinite(grad_norm + loss)
            if self.trainer.world_size > 1:
                bad = sum_over_ranks(bad.long()).bool()
            skip = self.guard.see(bad, loss, self.trainer.global_step + 1, batch)
            raw: Any = self.optimizers(use_pl_optimizer=False)
            if skips_on_device(raw):
                raw.found_inf = skip.float()
            elif skip:  # waits for the device; without gradients no parameter changes
                optimizer.zero_grad(set_to_none=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        update = own_loads = None
        if loads is not None:
            if self.trainer.world_size > 1 and getattr(self.trainer.strategy, "needs_own_loads", False):
                own_loads = loads.clone()  # the sum is in place
            loads = sum_over_ranks(loads)
            dropped = None if dropped is None else sum_over_ranks(dropped)
            update = of_trained(self.routers, self.balancer.bias_update(loads, progress))
            update = torch.where(skip, 0.0, update)
            update_biases(self.routers, update)
            put_back(self.balancer, before, skip)
        self.samples_seen += len(batch) * self.trainer.world_size
        self.tokens_seen += batch[:, 1:].numel() * self.trainer.world_size
        target_bytes = self.byte_lengths[batch[:, 1:]].sum()
        self.last_step = StepRecord(
            loss=loss,
            bpb=nll / target_bytes / math.log(2),
            mtp_loss=mtp_loss,
            grad_norm=grad_norm,
            learning_rate=optimizer.param_groups[0]["lr"],
            loads=loads,
            bias_update=update,
            balance_loss=balance_loss,
            dropped=dropped,
            own_loads=own_loads,
        )

    def passes(self, batch: Tensor, ahead: Ahead | None) -> Passes:
        """Run the forward and backward passes of a step on its windows (B, T + 1), one micro-batch after another.

        All that depends on the step comes in tensors, so that it can be recorded (see
        :class:`~s15erav3.training.cuda_graph.RecordedPasses`).
        """
        micro_batches = batch.chunk(self.micro_batches)
        nll = torch.zeros((), device=batch.device)
        loads = dropped = balance_loss = mtp_loss = None
        for i, windows in enumerate(micro_batches):
            with self._local_gradients(i + 1 < len(micro_batches)):
                if self.routers:
                    self.balancer.before_forward(partial(self.net, windows[:, :-1], look_ahead=ahead is not None))
                part = self.objective(windows, batch, ahead)
                routings = part.routed.routings
                if part.mtp_loss is not None:
                    mtp_loss = _sum(mtp_loss, part.mtp_loss.detach())
                if part.balance_loss is not None:
                    balance_loss = _sum(balance_loss, part.balance_loss.detach())
                # Lightning runs this whole step under autocast, which is meant for the forward pass only.
                with torch.autocast(self.device.type, enabled=False):
                    self.manual_backward(part.loss)
            nll += part.nll.detach()
            if routings:
                with torch.no_grad():
                    self.balancer.observe(part.routed)
                loads = _sum(loads, stack_loads(routings))
                refused = [routing.dropped for routing in routings if routing.dropped is not None]
                dropped = _sum(dropped, torch.stack(refused)) if refused else None
        return Passes(nll, mtp_loss, balance_loss, loads, dropped)

    def objective(self, windows: Tensor, batch: Tensor, ahead: Ahead | None) -> Objective:
        """The loss of a micro-batch.

        Args:
            windows: windows of the micro-batch, (B, T + 1).
            batch: all windows of its step.
            ahead: of the step; ``None`` without multi-token prediction.
        """
        nll, out = self._nll(windows, look_ahead=ahead is not None)
        loss, mtp_loss = nll / batch[:, 1:].numel(), None
        if self.multi_token_loss is not None and ahead is not None:
            head = self.net.lm_head.weight
            mtp_loss = self.multi_token_loss(out.ahead, windows, head, ahead.tokens, self.cross_entropy)
            loss = loss + ahead.weight * mtp_loss
        routed = MicroBatch(out.routings, len(windows))
        balance_loss = self.balancer.loss(routed) if out.routings else None
        if balance_loss is not None:
            balance_loss = balance_loss / len(batch.chunk(self.micro_batches))
            loss = loss + balance_loss
        return Objective(loss, nll, mtp_loss, balance_loss, routed)

    def on_validation_start(self) -> None:
        """Stop a diverged training before it is validated or saved."""
        if self.trainer.state.fn == "fit":
            self.refuse_if_diverged()

    def refuse_if_diverged(self, counts: list[float] | None = None) -> None:
        """Check the guard, reading its ``counts`` from the device if they are not given.

        Raises:
            Diverged: more consecutive steps were not finite than are tolerated.
        """
        if counts is None:
            counts = self.guard.counts.tolist() if self.guard.started else [0.0] * 5
        found = self.guard.first_bad(counts)
        if found is not None:
            step, loss_bad, batch = found
            with alone():
                ahead = self._ahead(batch, self.progress)

            def loss_of(windows: Tensor) -> Tensor:
                with self.trainer.precision_plugin.train_step_context():
                    return self.objective(windows, batch, ahead).loss

            micro_batches = batch.chunk(self.micro_batches)
            what = bad_part(self.net, micro_batches, loss_of, loss_bad, self.trainer.world_size)
            raise Diverged(f"{what} is not finite at step {step}")

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Accumulate the cost and the routing of windows (B, T + 1), without training or balancing."""
        windows = some_windows(batch)
        nll, out = self._nll(windows)
        if len(batch):
            self.validation.update(nll, self.byte_lengths[windows[:, 1:]], out.routings)
        if batch_idx == 0:
            first = self.trainer.is_global_zero
            if first and self._bias_update is not None:
                self.validation.probe(self.routers, out.routings, self._bias_update)
            if self._step_probed and self.validation.step_churn is not None:
                self.validation.step_churn.finish(self.net, self.routers, windows[:, :-1], out.routings, counts=first)

    def on_validation_epoch_end(self) -> None:
        """Publish ``val/*`` and the balance over the whole validation set."""
        results = self.validation.results(probed=self._bias_update is not None, step_probed=self._step_probed)
        self.log_dict(results, logger=False)  # for callbacks only; Lightning would log them at the previous step
        row = {key: value.item() for key, value in results.items()} | {"tokens": self.tokens_seen}
        for logger in self.loggers:
            logger.log_metrics(row, self.trainer.global_step)
        self.validation.reset()

    @property
    def _bias_update(self) -> Tensor | None:
        """Bias update of the last step; ``None`` before the first."""
        return self.last_step and self.last_step.bias_update

    @property
    def _step_probed(self) -> bool:
        """Whether the probe was routed before the last step."""
        churn = self.validation.step_churn
        return churn is not None and churn.step == self.trainer.global_step

    def _nll(self, windows: Tensor, look_ahead: bool = False) -> tuple[Tensor, Output]:
        """Summed nats of the targets, and the net's output for windows (B, T + 1)."""
        out: Output = self.net(windows[:, :-1], look_ahead=look_ahead)
        targets = windows[:, 1:].flatten()
        return self.cross_entropy(out.hidden.flatten(0, 1), self.net.lm_head.weight, targets), out

    def _ahead(self, batch: Tensor, progress: float) -> Ahead | None:
        loss = self.multi_token_loss
        return None if loss is None else loss.ahead(batch, len(self.net.mtp), progress)

    def _local_gradients(self, more_follow: bool) -> AbstractContextManager[None]:
        """Under DDP, synchronise gradients only in the last micro-batch of a step."""
        no_sync = getattr(self.trainer.model, "no_sync", None)
        return no_sync() if no_sync is not None and more_follow else nullcontext()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.refuse_if_diverged()
        checkpoint["seen"] = {"samples": self.samples_seen, "tokens": self.tokens_seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.samples_seen = checkpoint["seen"]["samples"]
        self.tokens_seen = checkpoint["seen"]["tokens"]


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part
