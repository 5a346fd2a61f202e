"""What the LightningModule does for a balancing strategy in a step: who is asked, when, and what is recorded.

Each docstring names mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from s15erav3.balancing import BIP, AddOns, AuxiliaryLoss, Combined, LossFree, MicroBatch, Unbalanced
from s15erav3.model import Routing, routers
from s15erav3.training import module as module_file
from s15erav3.training.module import LanguageModule
from s15erav3.training.records import StepRecord
from tests.training.parts import Windows, tiny_net, trained


def record(module: LanguageModule) -> StepRecord:
    assert module.last_step is not None
    return module.last_step


def test_a_strategy_is_asked_in_order_and_observes_without_gradients() -> None:
    """Seen to fail with ``observe`` called twice, with gradients on, and with the number of sequences of the whole
    batch."""

    class Told(LossFree):
        def loss(self, micro_batch: MicroBatch) -> None:
            calls.append(("loss", micro_batch.sequences, len(micro_batch.routings), torch.is_grad_enabled()))

        def observe(self, micro_batch: MicroBatch) -> None:
            calls.append(("observe", micro_batch.sequences, len(micro_batch.routings), torch.is_grad_enabled()))

        def bias_update(self, loads: Tensor, progress: float) -> Tensor:
            calls.append(("bias_update",))
            return super().bias_update(loads, progress)

    calls: list[tuple[Any, ...]] = []
    trained(Told(0.01), steps=2)
    assert calls == [*[("loss", 2, 2, True), ("observe", 2, 2, False)] * 4, ("bias_update",)] * 2


def test_every_routing_of_multi_token_prediction_is_shown() -> None:
    """Its loads alone in ``loads`` are not enough for rules that read scores. Seen to fail with the main model's."""
    seen: list[list[int]] = []

    class Sees(Unbalanced):
        def observe(self, micro_batch: MicroBatch) -> None:
            seen.append([len(routing.scores) // micro_batch.sequences for routing in micro_batch.routings])

    trained(Sees(), tiny_net(num_nextn_predict_layers=2))
    assert seen == [[7, 7, 6, 5]] * 4


def test_no_loss_is_none_and_not_zero() -> None:
    """A column of zeros says that there is a loss. Seen to fail with a record of 0."""
    assert record(trained(LossFree(0.01))).balance_loss is None
    loss = record(trained(Combined(LossFree(0.01), AddOns(z_loss=0.1)))).balance_loss
    assert loss is not None and loss > 0


def test_dropped_tokens_are_summed_over_micro_batches_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with those of the last micro-batch, without the sum over ranks, and with a record of 0 where there
    is no capacity."""

    class Crowds(Unbalanced):
        def observe(self, micro_batch: MicroBatch) -> None:
            parts.append(torch.stack([_dropped(routing) for routing in micro_batch.routings]))

    def _dropped(routing: Routing) -> Tensor:
        assert routing.dropped is not None
        return routing.dropped

    parts: list[Tensor] = []
    monkeypatch.setattr(module_file, "sum_over_ranks", lambda values: 3 * values)
    step = record(trained(Combined(Crowds(), AddOns(capacity_factor=0.5))))
    assert step.dropped is not None and torch.equal(step.dropped, 3 * torch.stack(parts).sum(dim=0))
    assert step.dropped.sum() > 0 and len(parts) == 4
    assert record(trained(Unbalanced())).dropped is None


def test_a_global_loss_begins_anew_in_every_step() -> None:
    """Seen to fail with loads that are kept: f would be that of the whole training."""
    balancer = AuxiliaryLoss(0.1, "global")
    module = trained(Combined(balancer, AddOns()), steps=2)
    assert balancer._step_loads is None
    assert record(module).balance_loss is not None


@pytest.mark.parametrize("frozen", [(0,), (0, 1)])
def test_a_frozen_router_keeps_its_bias(frozen: tuple[int, ...]) -> None:
    """A frozen model's bias that drifts: a bug that others shipped. Seen to fail without ``of_trained``."""
    net = tiny_net()
    before = [router.bias.clone() for router in routers(net)]
    for layer in frozen:
        routers(net)[layer].weight.requires_grad_(False)
    step = record(trained(LossFree(0.01), net))
    assert step.bias_update is not None and step.loads is not None
    for layer, (router, bias) in enumerate(zip(routers(net), before, strict=True)):
        assert torch.equal(router.bias, bias) == (layer in frozen)
        assert torch.equal(router.bias, bias + step.bias_update[layer])


def test_solvers_hold_between_steps_and_not_in_validation() -> None:
    """Validation routes by the bias that training left. Seen to fail with a solver that holds in evaluation, and with
    solved biases that validation adds to those of the step."""
    balancer = BIP(rounds=2)
    module = trained(balancer, steps=2, limit_val_batches=1.0, val_check_interval=1)
    assert not balancer._solved
    module.eval()
    with torch.no_grad():
        out = module.net(Windows().batches[0][:, :-1])
    for router, routing in zip(routers(module.net), out.routings, strict=True):
        assert routing.bias is router.bias
        best = (routing.scores + router.bias).topk(2).indices
        assert torch.equal(routing.experts.sort(-1).values, best.sort(-1).values)
