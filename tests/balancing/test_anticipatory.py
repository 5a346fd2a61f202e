"""Experts chosen by older weights, against copies of the model that each step leaves behind.

Each docstring names mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from s15erav3.balancing import Anticipatory, Combined, LossFree
from s15erav3.balancing.add_ons import AddOns
from s15erav3.errors import UserError
from s15erav3.model import Routing, Transformer, routers
from s15erav3.session.compiling import compile_blocks
from tests.training.parts import Windows, module_for, tiny_net, trained, trainer

AHEAD = {"num_nextn_predict_layers": 1, "first_k_dense_replace": 1}


class Watched(Anticipatory):
    """Keeps the model before each step, and the routings of every micro-batch."""

    def __init__(self, rate: float, lag: int) -> None:
        super().__init__(rate, lag)
        self.models: list[Transformer] = []
        self.seen: list[tuple[int, tuple[Routing, ...]]] = []

    def before_forward(self, forward):  # type: ignore[no-untyped-def]
        if not self._kept:
            self.models.append(copy.deepcopy(self._net[0]).eval())  # type: ignore[arg-type]
        super().before_forward(forward)

    def observe(self, micro_batch):  # type: ignore[no-untyped-def]
        self.seen.append((len(self.models) - 1, tuple(micro_batch.routings)))
        super().observe(micro_batch)


def sets(experts: Tensor) -> Tensor:
    return experts.sort(dim=-1).values


@pytest.mark.parametrize(("lag", "ahead"), [(1, {}), (2, {}), (2, AHEAD)])
def test_experts_are_those_of_the_model_of_lag_steps_before(lag: int, ahead: dict[str, int]) -> None:
    """Five steps of four micro-batches. Seen to fail with the current model's choice, with a lag one too small and one
    too large, with the old weights but the current biases, without the weights put back, and with a choice that
    outlives its micro-batch."""
    balancer = Watched(0.05, lag)
    module = module_for(balancer, tiny_net(**ahead), micro_batches=4)
    trainer(5).fit(module, Windows(batches=5))
    assert len(balancer.seen) == 20
    batches, moved = Windows(batches=5).batches, 0
    for at, (step, found) in enumerate(balancer.seen):
        windows = batches[step].chunk(4)[at % 4]
        old = balancer.models[max(0, step - lag)](windows[:, :-1], look_ahead=bool(ahead)).routings
        assert len(found) == len(old) == len(routers(module.net))
        for new, want in zip(found, old, strict=True):
            assert torch.equal(sets(new.experts), sets(want.experts))
            chosen = new.scores.gather(1, new.experts)
            torch.testing.assert_close(new.weights, chosen / chosen.sum(dim=-1, keepdim=True))
        now = balancer.models[step](windows[:, :-1]).routings
        torch.testing.assert_close(found[0].scores, now[0].scores)  # no experts come before
        moved += sum(int((sets(a.experts) != sets(b.experts)).sum()) for a, b in zip(now, found, strict=False))
    assert moved > 50 and all(router.given is None for router in module.routers)


def test_in_the_first_step_it_is_the_sign_rule() -> None:
    """To the last bit, add-ons included; and it is not in the second."""
    for steps, same in ((1, True), (2, False)):
        ours, plain = (
            trained(Combined(strategy, AddOns(z_loss=1e-3)), steps=steps).state_dict()
            for strategy in (Anticipatory(0.05), LossFree(0.05))
        )
        assert all(torch.equal(ours[key], plain[key]) for key in plain) == same


def test_a_skipped_step_is_no_step() -> None:
    """Weights of the next step are compared with those of a run that never had it. Seen to fail without the buffers put
    back."""

    def state(bad: bool) -> dict[str, Tensor]:
        data = Windows(batches=4)
        module = module_for(Anticipatory(0.05, lag=2), micro_batches=4, skip_nonfinite=1)
        if bad:
            data.batches.insert(2, data.batches[2])
            right, calls = module.objective, []

            def objective(*args):  # type: ignore[no-untyped-def]
                calls.append(1)
                part = right(*args)
                return part._replace(loss=part.loss * float("nan")) if len(calls) == 9 else part

            module.objective = objective  # type: ignore[method-assign]
        trainer(len(data.batches)).fit(module, data)
        return module.state_dict()

    with_it, without = state(True), state(False)
    assert all(torch.equal(with_it[key], value) for key, value in without.items())


def test_bad_values_are_refused() -> None:
    for lag in (0, 1.5, -1):
        with pytest.raises(UserError, match=r"balancing\.lag"):
            Anticipatory(0.1, lag=lag)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"balancing\.rate"):
        Anticipatory(0.0)


@pytest.mark.slow
def test_compiled_blocks_take_a_choice_without_being_compiled_again() -> None:
    """One version for the old model and one for the current, whatever the step."""
    counters.clear()

    def weights(compiled: bool) -> dict[str, Tensor]:
        net = tiny_net()
        module = module_for(Anticipatory(0.05), net, micro_batches=4)
        if compiled:
            compile_blocks(net, "cpu", backend="aot_eager")
        trainer(3).fit(module, Windows())
        return module.state_dict()

    eager, compiled = weights(False), weights(True)
    for key, value in eager.items():
        torch.testing.assert_close(compiled[key], value, msg=key)
    assert counters["stats"]["unique_graphs"] == 4  # with and without gradients, dense and MoE
