"""Bugs that other implementations of expert balancing shipped, each with a test under its name.

Most have a detailed test elsewhere, which the docstring names; here is the essence, through the module where the bug
would live there. Each was seen to fail with the bug put in by hand.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

from s15erav3.balancing import (
    BIP,
    SMEBU,
    AuxiliaryLoss,
    Balancer,
    LossFree,
    MicroBatch,
    Proportional,
    Quantile,
    Unbalanced,
)
from s15erav3.balancing.base import stack_loads, sum_over_ranks
from s15erav3.data.windows import EvaluationBatches, EvaluationWindows
from s15erav3.interop.hf_weights import to_hub
from s15erav3.model import Router, Transformer, routers
from s15erav3.training import module as module_file
from tests.balancing.parts import config, inputs, micro_batch, reader, skewed
from tests.model import reference
from tests.training.parts import VOCABULARY, Windows, module_for, tiny_net, trained, trainer

CHOICES = 8 * 7 * 2  # rows, tokens and experts per token of a step


def biases(net: Transformer) -> torch.Tensor:
    return torch.stack([router.bias.clone() for router in routers(net)])


def test_bias_updated_per_micro_batch() -> None:
    """Accumulation would multiply the rate: one step of four micro-batches moves a bias by the rate, once. Seen to
    fail with ``update_biases`` in the loop. See tests/training/test_module.py."""
    net = tiny_net()
    before = biases(net)
    trained(LossFree(0.25, centred=False), net)
    moved = (biases(net) - before).abs()
    assert moved.max().item() == pytest.approx(0.25) and ((moved < 1e-6) | (moved > 0.2499)).all()


@pytest.mark.parametrize(
    "rule", [LossFree(0.01), Proportional(0.01), SMEBU(0.01), Quantile()], ids=lambda r: type(r).__name__
)
def test_uncentred_drift(rule: Balancer) -> None:
    """One busy expert against many: without centring all others rise for ever, until fp32 rounds steps away. Seen to
    fail with ``centred=False`` as default, and without the mean in Quantile. See test_rules.py."""
    router, x = skewed(8, 1, seed=0)
    rule.attach([router])
    for _ in range(50):
        routing = router(x)
        rule.observe(micro_batch(routing))
        router.bias += rule.bias_update(routing.load[None], 0.0)[0].detach()
    assert router.bias.abs().max() > 0.05 and abs(router.bias.mean()) < 1e-6
    uncentred = LossFree(0.01, centred=False).bias_update(torch.tensor([[9, 1, 1, 1]]), 0.0)
    assert uncentred.sum().item() == pytest.approx(0.02)  # what the drift would be


def test_double_count_under_checkpointing() -> None:
    """Activation checkpointing runs each layer twice. The second routing is thrown away with the second output: loads
    are values that travel beside the states, not counters in the router. Seen to fail with loads counted by a hook on
    the router."""
    ends = []
    for again in (False, True):
        net, calls = tiny_net(), []
        for router in routers(net):
            router.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        if again:
            for layer in net.layers:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        observed = Observes()
        step = trained(observed, net).last_step
        assert step is not None and step.loads is not None
        assert len(calls) == 4 * 2 * (1 + again)
        assert step.loads.sum(dim=-1).tolist() == [CHOICES] * 2
        assert observed.seen == 4
        ends.append((step.loads, biases(net), net.embed_tokens.weight))
    for once, twice in zip(*ends, strict=True):
        torch.testing.assert_close(once, twice)


class Observes(LossFree):
    """Counts the micro-batches that it is shown."""

    def __init__(self) -> None:
        super().__init__(0.01)
        self.seen = 0

    def observe(self, micro_batch: MicroBatch) -> None:
        self.seen += 1


def test_mtp_layers_never_balanced() -> None:
    """Their routers lie outside of the main stack of layers. Seen to fail with routers of ``net.layers`` alone. See
    tests/training/test_module.py."""
    net = tiny_net(num_nextn_predict_layers=2)
    before = biases(net)
    trained(LossFree(0.01), net)
    assert len(before) == 4 and ((biases(net) - before).abs().amax(dim=-1) > 0).all()


def test_counters_zeroed_before_logging() -> None:
    """Callbacks read the loads after the step that used them, and a record is not rewritten by the next step. Seen to
    fail with loads that are zeroed in place after the move. See tests/callbacks/test_telemetry.py, test_replay.py."""
    module = trained(LossFree(0.01))
    step = module.last_step
    assert step is not None and step.loads is not None and step.loads.sum().item() == 2 * CHOICES
    kept = step.loads.clone()
    trainer(2).fit(module, Windows())
    assert module.last_step is not step and torch.equal(step.loads, kept)


def test_per_rank_imbalance_reported_as_global(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks uneven in opposite ways are even together: in the step's record, in validation, in the loss. Seen to
    fail without each of the sums. Real processes: test_loads.py, test_two_ranks.py."""
    monkeypatch.setattr(module_file, "sum_over_ranks", lambda loads: CHOICES - loads)  # the other rank fills up
    step = trained(LossFree(0.01)).last_step
    assert step is not None and step.loads is not None
    assert step.loads.sum(dim=-1).tolist() == [3 * CHOICES] * 2
    expected = 0.01 * torch.sign(step.loads.double().mean(-1, keepdim=True) - step.loads)
    torch.testing.assert_close(step.bias_update, (expected - expected.mean(-1, keepdim=True)).float())

    metric = module_for(LossFree(0.01)).validation.loads
    assert metric is not None and metric._reductions["loads"] is not None
    assert metric._reductions["loads"](torch.tensor([[[4, 0]], [[0, 4]]])).tolist() == [[4, 4]]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda loads: loads.copy_(loads + loads.flip(-1)))
    routing = reader(2, 1)(inputs([[1.0, 0.0], [2.0, 0.0]]))
    assert sum_over_ranks(stack_loads([routing])).tolist() == [[2, 2]]
    assert AuxiliaryLoss(1.0, "global").loss(micro_batch(routing)).item() == pytest.approx(1.0)
    assert AuxiliaryLoss(1.0, "micro").loss(micro_batch(routing)).item() > 1.0


def test_padding_counted() -> None:
    """Nothing is padded where something is counted: a validation text of 45 tokens routes its 44 inputs and no more,
    whatever the batch. Seen to fail with a last batch that is filled up. See tests/data/test_windows.py; left padding
    of prompts, which balances nothing, is in tests/model/test_decode.py."""
    windows = EvaluationWindows(np.arange(45) % VOCABULARY, 8)  # type: ignore[arg-type]
    module = module_for(Unbalanced())
    for batch in EvaluationBatches(windows, 4):
        module.validation_step(torch.stack([windows[i] for i in batch]), 1)
    assert module.validation.loads is not None
    assert module.validation.loads.compute().sum(dim=-1).tolist() == [44 * 2] * 2
    assert module.validation.cost.tokens == 44


def test_bias_leaking_into_gate_weights() -> None:
    """Where a bias changes no choice it changes nothing. Seen to fail with weights gathered from s + b. See
    tests/model/test_router.py; prices of BIP: test_bip.py."""
    router, x = skewed(8, 2, seed=0)
    before = router(x)
    router.bias += 0.25
    assert torch.equal(router(x).weights, before.weights) and torch.equal(router(x).scores, before.scores)
    router.bias[7] += 100.0
    lifted = router(x)
    assert (lifted.experts == 7).any(dim=1).all()
    pairs = lifted.scores.gather(1, lifted.experts)
    torch.testing.assert_close(lifted.weights, pairs / pairs.sum(dim=1, keepdim=True))


def test_groups_masked_with_zero() -> None:
    """A closed expert at 0 beats open ones whose s + b is below 0. Seen to fail with 0 for -inf. See
    tests/model/test_router.py."""
    router = Router(config(4, 2, n_group=2, topk_group=1))
    torch.nn.init.zeros_(router.weight)
    router.bias.copy_(torch.tensor([-0.9, -0.8, -1.0, -0.9]))  # s + b: -0.4, -0.3 | -0.5, -0.4
    assert sorted(router(torch.ones(1, 16)).experts[0].tolist()) == [0, 1]


def test_bias_not_saved() -> None:
    """It is no parameter, and still belongs to the weights. Seen to fail with ``persistent=False``. Through the verbs:
    test_resuming.py."""
    module, other = trained(LossFree(0.01)), module_for(LossFree(0.01), tiny_net(seed=1))
    other.load_state_dict(module.state_dict())
    assert torch.equal(biases(other.net), biases(module.net)) and biases(module.net).abs().max() > 0


def test_bias_cast_to_bf16() -> None:
    """bf16 near 1 has steps of 2^-8: updates of 1e-3 would be swallowed. Seen to fail without ``Router._apply``. See
    tests/model/test_router.py."""
    net = tiny_net()
    routers(net)[0].bias += 1.0
    before = biases(net)
    net.bfloat16()
    routers(net)[0].bias += 1e-3
    assert torch.equal(biases(net)[0], before[0] + 1e-3) and torch.equal(biases(net)[1], before[1])


def test_export_writes_zeros() -> None:
    """A buffer that the export passes over is a model that nobody trained. Seen to fail with zeros written. See
    tests/test_export.py."""
    net = tiny_net()
    tensors = to_hub(net)
    written = [tensors[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"] for layer in (1, 2)]
    assert torch.equal(torch.stack(written), biases(net)) and all(bias.abs().min() > 0 for bias in written)


def test_parity_tests_run_with_a_zero_bias() -> None:
    """They prove nothing of the bias: those of tests/model/test_parity.py draw it, and it changes choices. Seen to
    fail with ``bias=0`` in ``random_model``."""
    model = reference.random_model(reference.tiny_config(), 0)
    ids = reference.token_ids(model.config, 2, 16)
    chosen = [routing.experts.sort(-1).values for routing in model(ids).routings]
    assert all(router.bias.abs().min() > 0 for router in routers(model))
    for router in routers(model):
        router.bias.zero_()
    assert not any(torch.equal(a, b.experts.sort(-1).values) for a, b in zip(chosen, model(ids).routings, strict=True))


def test_frozen_models_bias_still_drifting() -> None:
    """A router whose matrix takes no gradient keeps its bias, a model all of whose parameters are frozen cannot be
    trained at all. Seen to fail without ``of_trained``. Router by router: tests/training/test_balance_step.py."""
    net = tiny_net()
    before = biases(net)
    for router in routers(net):
        router.weight.requires_grad_(False)
    step = trained(LossFree(0.01), net).last_step
    assert step is not None and step.bias_update is not None and (step.bias_update == 0).all()
    assert torch.equal(biases(net), before)
    with pytest.raises(RuntimeError, match="does not require grad"):
        trained(LossFree(0.01), net.requires_grad_(False))
    assert torch.equal(biases(net), before)


@pytest.mark.parametrize(
    "make", [lambda: LossFree(0.01), lambda: SMEBU(0.01), Quantile, BIP, lambda: AuxiliaryLoss(0.1, "global")]
)
def test_eval_forwards_counted(make: Any) -> None:
    """A run that validates after every step, and forward passes that nobody asked the balancer about, change neither
    biases nor weights. Seen to fail with an ``observe`` or a ``bias_update`` that evaluation reaches."""
    nets = [tiny_net(), tiny_net()]
    trained(make(), nets[0], steps=3)
    trained(make(), nets[1], steps=3, limit_val_batches=1.0, val_check_interval=1)
    ends = [net.state_dict() for net in nets]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    before = biases(nets[1])
    with torch.no_grad():
        for mode in (True, False):
            nets[1].train(mode)(Windows(seed=1).batches[0][:, :-1])
    assert torch.equal(biases(nets[1]), before)
