"""The LightningModule: one batch, one optimizer step, one move of the biases."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s15erav3.balancing import Balancer, LossFree, MicroBatch, OriginalRule, Unbalanced
from s15erav3.balancing.diagnostics import max_violation
from s15erav3.model import Router, Transformer, routers
from s15erav3.training import module as module_file
from s15erav3.training.hosts import TimeLimit
from s15erav3.training.module import LanguageModule
from s15erav3.training.mtp import MultiTokenLoss
from s15erav3.training.optim import adamw, muon
from s15erav3.training.records import StepRecord
from s15erav3.training.schedule import Constant, Cosine
from tests.training.parts import VOCABULARY, Windows, tiny_net, trainer

DENSE = {"n_routed_experts": 0, "n_shared_experts": 0, "num_experts_per_tok": 0, "first_k_dense_replace": 0}
BYTES = torch.arange(VOCABULARY) % 5
END = 7


def sgd(net: nn.Module, lr: float = 0.5) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": list(net.parameters()), "initial_lr": lr}], lr=lr)


def by_adamw(net: nn.Module) -> torch.optim.Optimizer:
    return adamw(net, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, decay_embeddings=False)


def by_muon(net: nn.Module) -> torch.optim.Optimizer:
    return muon(
        net,
        lr=0.02,
        momentum=0.9,
        weight_decay=0.1,
        adamw_lr=0.01,
        betas=(0.9, 0.95),
        eps=1e-8,
        adamw_weight_decay=0.1,
        decay_embeddings=False,
        router="adamw",
        bf16=False,
    )


def module_of(net: Transformer, balancer: Balancer | None = None, **settings: Any) -> LanguageModule:
    settings = {
        "optimizer": sgd,
        "schedule": Constant(),
        "byte_lengths": BYTES,
        "loss_chunk": 5,
        "gradient_clip": 0.0,
        **settings,
    }
    return LanguageModule(net, balancer or LossFree(0.01), **settings)


def ahead_loss(weight: float = 0.3, final_weight: float = 0.1, final_from: float = 0.67) -> MultiTokenLoss:
    return MultiTokenLoss(weight, final_weight, final_from, end_of_text=END)


class Watch(L.Callback):
    """Keeps the net before each step, and the record and biases after it."""

    def __init__(self) -> None:
        self.nets: list[Transformer] = []
        self.records: list[StepRecord] = []
        self.biases: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Tensor, index: int) -> None:
        self.nets.append(copy.deepcopy(module.net))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Tensor, index: int) -> None:
        self.records.append(module.last_step)
        self.biases.append(biases_of(module.net))


def biases_of(net: nn.Module) -> Tensor:
    return torch.stack([r.bias.clone() for r in routers(net)])


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# --- biases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balancer", [LossFree(0.02), OriginalRule(0.5)])
def test_biases_move_once_per_step_by_the_rule_of_the_summed_loads(
    balancer: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bugs others shipped: a move per micro-batch, or from the loads of the last micro-batch alone."""
    moves: list[Tensor] = []
    real = module_file.update_biases
    monkeypatch.setattr(module_file, "update_biases", lambda r, change: (moves.append(change), real(r, change)))
    data, watch = Windows(), Watch()
    module = module_of(tiny_net(), balancer, micro_batches=4, optimizer=by_muon)
    trainer(3, callbacks=[watch]).fit(module, data)

    assert len(moves) == len(watch.records) == 3
    for step, (net, record, after) in enumerate(zip(watch.nets, watch.records, watch.biases, strict=True)):
        parts = data.batches[step].chunk(4)
        assert len(parts) == 4
        loads = sum(torch.stack([r.load for r in net(part[:, :-1]).routings]) for part in parts)
        assert isinstance(loads, Tensor)
        assert record.loads is not None and record.bias_update is not None
        assert torch.equal(record.loads, loads)
        assert (loads.sum(dim=-1) == 8 * 7 * 2).all()
        change = balancer.bias_update(loads, step / 3)
        assert torch.equal(record.bias_update, change) and change.abs().max() > 0
        assert torch.equal(after, biases_of(net) + change)


def test_loads_are_summed_over_ranks_once_per_step_and_before_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases moved by a rank's own loads differ between ranks; a sum per micro-batch is a wait per micro-batch."""
    calls: list[Tensor] = []

    def with_another_rank(loads: Tensor) -> Tensor:
        calls.append(loads.clone())
        return loads + other

    other = torch.tensor([[1000, 0, 0, 0], [0, 0, 0, 1000]])
    monkeypatch.setattr(module_file, "sum_over_ranks", with_another_rank)
    module = module_of(tiny_net(), micro_batches=4)
    trainer(3).fit(module, Windows())
    assert len(calls) == 3 and all(loads.sum() == 2 * 8 * 7 * 2 for loads in calls)
    assert module.last_step is not None and module.last_step.bias_update is not None
    assert torch.equal(module.last_step.loads, calls[-1] + other)  # type: ignore[arg-type]
    expected = 0.01 * torch.tensor([[-1.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, -1.5]])
    torch.testing.assert_close(module.last_step.bias_update, expected)


def test_no_balancing_leaves_the_biases_of_a_training_alone_to_the_bit() -> None:
    """Catches biases that are trained, decayed or rounded."""
    module = module_of(tiny_net(), Unbalanced(), optimizer=by_adamw)
    before, weights = biases_of(module.net), state_of(module.net)
    trainer(3).fit(module, Windows())
    assert torch.equal(biases_of(module.net), before)
    assert not torch.equal(module.net.layers[1].mlp.router.weight, weights["layers.1.mlp.router.weight"])


def test_the_balancer_is_told_the_share_of_training_done() -> None:
    """A cosine rate that ends one step early or never reaches the start is another schedule."""

    class Told(LossFree):
        def bias_update(self, loads: Tensor, progress: float) -> Tensor:
            told.append(progress)
            return super().bias_update(loads, progress)

    told: list[float] = []
    trainer(4).fit(module_of(tiny_net(), Told(0.01), micro_batches=2), Windows())
    assert told == [0.0, 0.25, 0.5, 0.75]


def test_routers_of_multi_token_prediction_are_balanced_and_not_validated() -> None:
    """Multi-token-prediction blocks that are never balanced: a bug that others shipped."""
    net, data, watch = tiny_net(num_nextn_predict_layers=2), Windows(), Watch()
    module = module_of(net, micro_batches=2, multi_token_loss=ahead_loss())
    assert module.routers == [
        net.layers[1].mlp.router,
        net.layers[2].mlp.router,
        *(b.block.mlp.router for b in net.mtp),
    ]
    run = trainer(2, limit_val_batches=1.0, val_check_interval=2, callbacks=[watch])
    run.fit(module, data)
    for step, (before, record, after) in enumerate(zip(watch.nets, watch.records, watch.biases, strict=True)):
        parts = [before(part[:, :-1], look_ahead=True) for part in data.batches[step].chunk(2)]
        loads = sum(torch.stack([r.load for r in part.routings]) for part in parts)
        assert record.loads is not None and torch.equal(record.loads, loads)  # type: ignore[arg-type]
        assert record.loads.sum(dim=-1).tolist() == [8 * length * 2 for length in (7, 7, 6, 5)]
        assert torch.equal(record.bias_update, LossFree(0.01).bias_update(record.loads, 0.0))  # type: ignore[arg-type]
        assert (record.bias_update.abs().amax(dim=-1) > 0).all()  # type: ignore[union-attr]
        assert torch.equal(after, biases_of(before) + record.bias_update)
    assert module.validation.loads is not None and module.validation.loads.loads.shape == (2, 4)
    with torch.no_grad():
        outs = [net(windows[:, :-1]) for windows in data.val_dataloader()]
    loads = sum(torch.stack([r.load for r in out.routings]) for out in outs)
    assert isinstance(loads, Tensor)
    expected = max_violation(loads).mean().item()
    assert run.callback_metrics["balance/maxvio_global"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("weights", "weight"), [((0.7, 0.1, 0.5), 0.7), ((0.7, 0.1, 0.0), 0.1)])
def test_the_loss_is_the_main_one_and_the_weighted_one_ahead(weights: tuple[float, ...], weight: float) -> None:
    """Catches a weight that is left out, twice there or the final one, and a record that is weighted or halved."""
    net, data = tiny_net(num_nextn_predict_layers=2).double(), Windows()
    reference = copy.deepcopy(net)
    module = module_of(net, micro_batches=4, multi_token_loss=ahead_loss(*weights))
    trainer(1, precision="64-true").fit(module, data)

    windows = data.batches[0]
    out = reference(windows[:, :-1], look_ahead=True)
    loss = F.cross_entropy(reference.logits(out.hidden).flatten(0, 1), windows[:, 1:].flatten())
    ahead = []
    for k, states in enumerate(out.ahead, start=1):
        kept = torch.stack([(windows[:, j : j + 7 - k] != END) for j in range(1, k + 1)]).all(dim=0)
        ahead.append(F.cross_entropy(reference.logits(states[kept]), windows[:, k + 1 :][kept]))
        assert not kept.all()
    mtp_loss = torch.stack(ahead).mean()
    (loss + weight * mtp_loss).backward()
    record = module.last_step
    assert record is not None and record.mtp_loss is not None
    assert record.mtp_loss.item() == pytest.approx(mtp_loss.item(), rel=1e-6)
    assert record.loss.item() == pytest.approx(loss.item(), rel=1e-6)  # train/loss without the term
    assert not record.mtp_loss.requires_grad
    for (name, a), b in zip(net.named_parameters(), reference.parameters(), strict=True):
        assert b.grad is not None
        torch.testing.assert_close(a, b - 0.5 * b.grad, rtol=1e-7, atol=1e-9, msg=name)


def test_prediction_blocks_without_a_loss_are_refused_and_a_loss_without_blocks_is_idle() -> None:
    """Blocks that nothing trains would be saved as they were drawn."""
    with pytest.raises(ValueError, match="multi-token-prediction"):
        module_of(tiny_net(num_nextn_predict_layers=1))
    nets = [tiny_net(), tiny_net()]
    for net, loss in zip(nets, (None, ahead_loss()), strict=True):
        module = module_of(net, multi_token_loss=loss)
        trainer(2).fit(module, Windows())
        assert module.last_step is not None and module.last_step.mtp_loss is None
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


# --- the step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sgd, by_adamw, by_muon])
def test_four_micro_batches_train_like_one(make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    """Catches gradients that are summed instead of averaged, and micro-batches weighted by number not by tokens."""
    nets = []
    for micro_batches in (1, 4, 3):  # the last one divides eight rows unevenly
        net = tiny_net().double()
        module = module_of(net, micro_batches=micro_batches, optimizer=make, gradient_clip=0.1)
        trainer(3, precision="64-true").fit(module, Windows())
        assert module.last_step is not None
        nets.append((net, module.last_step))
    for net, step in nets[1:]:
        for (name, a), b in zip(net.state_dict().items(), nets[0][0].state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=name)
        assert torch.equal(step.loads, nets[0][1].loads)  # type: ignore[arg-type]
        torch.testing.assert_close(step.loss, nets[0][1].loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(step.grad_norm, nets[0][1].grad_norm)


def test_one_step_is_what_torch_does_by_hand() -> None:
    """Catches shifted targets, a loss per batch instead of per token, and clipping that is skipped or doubled."""
    net, data = tiny_net(), Windows()
    reference = copy.deepcopy(net)
    module = module_of(net, schedule=Cosine(1, final_ratio=0.0), gradient_clip=0.3)
    trainer(1).fit(module, data)

    windows = data.batches[0]
    logits = reference.logits(reference(windows[:, :-1]).hidden)
    loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    loss.backward()
    norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.3)
    assert norm > 0.3
    with torch.no_grad():
        for parameter in reference.parameters():
            assert parameter.grad is not None
            parameter -= 0.5 * 0.5 * parameter.grad  # rate 0.5, first of a warmup of one step
    for (name, a), b in zip(net.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)

    record = module.last_step
    assert record is not None
    assert record.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert record.grad_norm.item() == pytest.approx(norm.item(), rel=1e-4)
    assert record.learning_rate == 0.25
    total_bytes = BYTES[windows[:, 1:]].sum().item()
    assert record.bpb.item() == pytest.approx(loss.item() * 56 / total_bytes / math.log(2), rel=1e-5)
    assert not record.loss.requires_grad and not record.bpb.requires_grad
    assert all(p.grad is None for p in net.parameters())
    assert (module.samples_seen, module.tokens_seen) == (8, 56)


def test_a_clip_of_zero_never_clips() -> None:
    """``clip_grad_norm_(0)`` would set every gradient to 0: a training that learns nothing."""
    changes = []
    for clip in (0.0, 1e9):
        net = tiny_net()
        trainer(1).fit(module_of(net, gradient_clip=clip), Windows())
        changes.append(net)
    assert all(torch.equal(a, b) for a, b in zip(changes[0].parameters(), changes[1].parameters(), strict=True))
    assert not torch.equal(changes[0].norm.weight, tiny_net().norm.weight)


def test_a_balancers_loss_is_averaged_over_micro_batches() -> None:
    """An auxiliary loss that grows with accumulation is another strength at every batch size."""

    class Auxiliary(Unbalanced):
        def loss(self, micro_batch: MicroBatch) -> Tensor:
            assert len(micro_batch.routings) == 2 and micro_batch.sequences == 2
            calls.append(micro_batch)
            return 3.0 * torch.stack([r.scores.square().mean() for r in micro_batch.routings]).sum()

    calls: list[Any] = []
    net, data = tiny_net().double(), Windows()
    reference = copy.deepcopy(net)
    module = module_of(net, Auxiliary(), micro_batches=4)
    trainer(1, precision="64-true").fit(module, data)
    assert len(calls) == 4

    windows = data.batches[0]
    out = reference(windows[:, :-1])  # equal micro-batches: the mean of their means is the mean
    loss = F.cross_entropy(reference.logits(out.hidden).flatten(0, 1), windows[:, 1:].flatten())
    auxiliary = 3.0 * torch.stack([r.scores.square().mean() for r in out.routings]).sum()
    (loss + auxiliary).backward()
    for (name, a), b in zip(net.named_parameters(), reference.named_parameters(), strict=True):
        assert b[1].grad is not None
        torch.testing.assert_close(a, b[1] - 0.5 * b[1].grad, rtol=1e-7, atol=1e-9, msg=name)
    assert module.last_step is not None
    assert module.last_step.loss.item() == pytest.approx(loss.item(), rel=1e-6)  # train/loss without the term
    assert module.last_step.balance_loss is not None
    assert module.last_step.balance_loss.item() == pytest.approx(auxiliary.item(), rel=1e-6)
    assert not module.last_step.balance_loss.requires_grad


def test_the_schedule_multiplies_the_initial_rate_in_every_step() -> None:
    """Factors that multiply the current rate compound: 0.5 becomes 0.25, 0.125, ..."""
    seen: list[tuple[int, float]] = []

    def schedule(step: int, progress: float) -> float:
        seen.append((step, progress))
        return 0.5

    watch = Watch()
    module = module_of(tiny_net(), schedule=schedule, optimizer=by_muon, micro_batches=2)
    trainer(4, callbacks=[watch]).fit(module, Windows())
    assert seen == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert [r.learning_rate for r in watch.records] == [0.01] * 4
    assert {g["lr"] / g["initial_lr"] for g in module.optimizers().param_groups} == {0.5}  # type: ignore[union-attr]


def test_what_was_seen_is_counted_over_steps_and_saved() -> None:
    """Samples seen decide which windows a resumed run reads next."""
    module = module_of(tiny_net(), micro_batches=4)
    trainer(3).fit(module, Windows())
    assert (module.samples_seen, module.tokens_seen) == (24, 24 * 7)
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    other = module_of(tiny_net())
    other.on_load_checkpoint(checkpoint)
    assert (other.samples_seen, other.tokens_seen) == (24, 24 * 7)


def test_a_dense_model_trains_without_any_balance() -> None:
    """Catches diagnostics of nothing: no layers, no loads."""
    module = module_of(tiny_net(**DENSE), LossFree(0.1), micro_batches=2)
    run = trainer(2, limit_val_batches=1.0, val_check_interval=2)
    run.fit(module, Windows())
    assert module.last_step is not None
    assert module.last_step.loads is None and module.last_step.bias_update is None
    assert module.validation.loads is None
    assert set(run.callback_metrics) == {"val/loss", "val/bpb"}


def test_a_batch_smaller_than_the_micro_batches_is_one_step_too() -> None:
    """Catches empty chunks, and gradients divided by the wanted number of parts."""
    results = []
    for micro_batches in (1, 4):
        net = tiny_net().double()
        module = module_of(net, micro_batches=micro_batches)
        trainer(2, precision="64-true").fit(module, Windows(rows=2))
        results.append(net)
        assert module.samples_seen == 4
    for a, b in zip(results[0].parameters(), results[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


# --- validation -------------------------------------------------------------------------------------------------


def test_validation_moves_nothing() -> None:
    """Bugs others shipped: evaluation counted into the balance, biases moved by it, modes left behind."""
    module, data = module_of(tiny_net(), optimizer=by_muon), Windows()
    trainer(2).fit(module, data)
    before, record, seen = state_of(module), module.last_step, (module.samples_seen, module.tokens_seen)
    rng = torch.get_rng_state()
    trainer(2, limit_val_batches=1.0).validate(module, data, verbose=False)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.last_step is record and (module.samples_seen, module.tokens_seen) == seen
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


def test_validation_between_steps_does_not_change_the_training() -> None:
    """A run that validates more often must end with the same weights."""
    ends = []
    for every in (None, 1):
        net = tiny_net()
        settings = {} if every is None else {"limit_val_batches": 1.0, "val_check_interval": every}
        trainer(3, **settings).fit(module_of(net), Windows())
        ends.append(net.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_validation_measures_all_tokens_of_uneven_batches() -> None:
    """The headline number: nats over tokens and bits over bytes of the whole set, not a mean over batches."""
    net, data = tiny_net(), Windows()
    run = trainer(2, limit_val_batches=1.0)
    run.validate(module_of(net), data, verbose=False)
    results = {key: value.item() for key, value in run.callback_metrics.items()}
    nll = tokens = total_bytes = 0.0
    loads = torch.zeros(2, 4, dtype=torch.int64)
    with torch.no_grad():
        for windows in data.val_dataloader():
            out, targets = net(windows[:, :-1]), windows[:, 1:].flatten()
            nll += F.cross_entropy(net.logits(out.hidden).flatten(0, 1).double(), targets, reduction="sum").item()
            tokens += targets.numel()
            total_bytes += BYTES[targets].sum().item()
            loads += torch.stack([r.load for r in out.routings])
    assert results["val/loss"] == pytest.approx(nll / tokens, rel=1e-5)
    assert results["val/bpb"] == pytest.approx(nll / total_bytes / math.log(2), rel=1e-5)
    assert results["balance/maxvio_global"] == pytest.approx(max_violation(loads).mean().item(), rel=1e-5)
    assert set(results) == {
        "val/loss",
        "val/bpb",
        "balance/maxvio_global",
        "balance/maxvio_floor_global",
        "balance/minvio_global",
        "balance/entropy_global",
        "balance/cv_global",
        "balance/gini_global",
        *(f"balance/load_p{percent}_global" for percent in ("05", "50", "95")),
        "balance/dead_experts_global",
        "balance/confidence",
        "balance/margin",
    }  # their values, and balance/churn: test_validation.py, test_step_churn.py


def test_every_validation_starts_at_zero() -> None:
    """Counters that are not reset average over all validations so far."""
    module, data = module_of(tiny_net()), Windows()
    run = trainer(2, limit_val_batches=1.0)
    run.validate(module, data, verbose=False)
    first = {key: value.item() for key, value in run.callback_metrics.items()}
    run.validate(module, data, verbose=False)
    assert first["val/bpb"] > 0
    assert {key: value.item() for key, value in run.callback_metrics.items()} == first
    assert module.validation.cost.tokens == 0
    assert module.validation.loads is not None and module.validation.loads.loads.sum() == 0


# --- the rest ---------------------------------------------------------------------------------------------------


def test_progress_is_by_steps_or_by_time_whichever_is_further() -> None:
    """Under a time limit the decay must finish before the time is up."""
    module = module_of(tiny_net())
    timer = TimeLimit(100)
    fake: Any = SimpleNamespace(global_step=30, max_steps=100, callbacks=[])
    module.trainer = fake
    assert module.progress == 0.3
    fake.callbacks = [timer]
    for elapsed, expected in ((10.0, 0.3), (80.0, 0.8), (500.0, 1.0)):
        timer.spent = elapsed
        assert module.progress == expected
    fake.callbacks, fake.global_step = [], 120
    assert module.progress == 1.0


def test_what_is_saved_is_the_net_and_its_biases() -> None:
    """Byte lengths belong to the tokenizer, sums to one validation: neither may be in the weights."""
    module = module_of(tiny_net())
    assert set(module.state_dict()) == {f"net.{name}" for name in module.net.state_dict()}
    assert sum(name.endswith("router.bias") for name in module.state_dict()) == 2
    assert {id(p) for g in module.configure_optimizers().param_groups for p in g["params"]} == {
        id(p) for p in module.net.parameters()
    }


def test_a_balancers_buffers_are_saved_with_the_module() -> None:
    """State between steps that is lost on resuming makes a resumed run another run."""

    class Remembers(Unbalanced):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("velocity", torch.zeros(2, 4))

    assert "balancer.velocity" in module_of(tiny_net(), Remembers()).state_dict()


def test_mixed_precision_trains_and_keeps_biases_and_losses_fp32() -> None:
    """Catches dtypes that only meet under autocast."""
    net = tiny_net(num_nextn_predict_layers=1)
    module = module_of(net, optimizer=by_muon, micro_batches=2, multi_token_loss=ahead_loss())
    trainer(2, precision="bf16-mixed", limit_val_batches=1.0, val_check_interval=2).fit(module, Windows())
    assert module.last_step is not None
    for loss in (module.last_step.loss, module.last_step.mtp_loss):
        assert loss is not None and loss.dtype == torch.float32 and torch.isfinite(loss)
    assert all(isinstance(r, Router) and r.bias.dtype == torch.float32 for r in module.routers)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in module.parameters())
