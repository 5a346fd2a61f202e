"""Recorded passes against passes run by Python, bit for bit, on a simulated graph.

Seen to fail without each of: the batch copied, the gradients given to the parameters, the strategy's attributes set
again, in new containers, and only those that changed; and the results copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from s15erav3.balancing import LossFree, MicroBatch
from s15erav3.balancing.base import stack_loads
from s15erav3.machine.lone_step import LoneStep, composed
from s15erav3.training import cuda_graph
from s15erav3.training.cuda_graph import Unrecordable
from tests.conftest import ROOT
from tests.tiny import MODEL, few
from tests.training.parts import Windows, module_for, trainer
from tests.training.simulated_graph import SimulatedGraph, place

TWICE = ["trainer.accumulate_grad_batches=2"]
AHEAD = ["model.num_nextn_predict_layers=1", "mtp.final_from=0.5"]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "Graph", SimulatedGraph)


def strategies() -> list[str]:
    return sorted(file.stem for file in Path(ROOT, "conf", "balancing").glob("*.yaml"))


def steps(settings: list[str], recorded: bool, number: int = 7, bf16: bool = False) -> list[Any]:
    """All results of some steps, each on other windows, and all weights and buffers after them."""
    settings = [*MODEL, "data.sequence_length=16", "data.batch_size=2", "loss_chunk=24", *settings]
    torch.manual_seed(1)
    step = LoneStep(composed([*settings, f"cuda_graphs={recorded}"]), "cpu", 64, bf16)
    step.trainer.max_steps = number
    generator = torch.Generator().manual_seed(2)
    found: list[Any] = []
    for _ in range(number):
        step.batch = torch.randint(64, step.batch.shape, generator=generator)
        step()
        found += step.module.last_step or ()  # no copies: the next step may not change them
    if graph := step.module.graph:
        lasting = [*step.module.parameters(), *step.module.buffers(), *tree_leaves(graph.inputs)]
        assert graph.graph.operators.outside <= {place(t) for t in lasting if t is not None} | {0}  # 0: empty tensors
    return [*found, *step.module.state_dict().values(), *step.module.balancer.buffers()]


def equal(settings: list[str], **more: Any) -> bool:
    ours, right = (steps(settings, recorded, **more) for recorded in (True, False))
    return len(ours) == len(right) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(ours, right, strict=True)
    )


@pytest.mark.parametrize("balancing", few(strategies(), "loss_free", "anticipatory", "quantile", "relu_routing"))
def test_every_strategy(balancing: str) -> None:
    """With two micro-batches a step, and a weight of multi-token prediction that changes between recorded steps."""
    experts = ["experts=dense"] if balancing == "none" else []
    assert equal([*experts, *TWICE, *AHEAD, f"balancing={balancing}"])


@pytest.mark.parametrize(
    "settings",
    few(
        [
            [],
            ["experts=dense", "balancing=none", *TWICE],
            ["balancing.capacity_factor=1.25", "balancing.router_jitter=0.1", "balancing.expert_dropout=0.1", *TWICE],
            ["balancing/loss=[aux_global,aux_sequence,simbal,erc]", "balancing.z_loss=1e-3", *TWICE],
            ["activation_checkpointing=full", "model.tie_word_embeddings=false", *TWICE],
            ["optimizer=muon", "trainer.skip_nonfinite=2", "balancing=quantile", "balancing.scope=micro", *TWICE],
        ],
        [],
    ),
    ids=" ".join,
)
def test_other_settings(settings: list[str]) -> None:
    assert equal(settings)


@pytest.mark.parametrize("balancing", ["loss_free", "anticipatory"])
def test_autocast(balancing: str) -> None:
    assert equal([*TWICE, *AHEAD, f"balancing={balancing}"], bf16=True)


def test_a_step_that_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that reads a value on the host, which each of the steps before it may do."""
    monkeypatch.setattr(LossFree, "observe", lambda self, found: found.routings[0].load.max().item())
    with pytest.raises(Unrecordable, match="capturing"):
        steps([], recorded=True)


def test_the_strategys_own_attributes() -> None:
    """Those that the passes set are set again, in containers of their own; others stay as they are."""

    class Own(LossFree):
        def __init__(self) -> None:
            super().__init__(0.01)
            self.seen: dict[str, list[Tensor]] = {}
            self.steps = 0

        def observe(self, micro_batch: MicroBatch) -> None:
            self.seen.setdefault("loads", []).append(stack_loads(micro_batch.routings))

        def bias_update(self, loads: Tensor, progress: float) -> Tensor:
            self.steps += 1
            found = torch.stack(self.seen["loads"])
            assert torch.equal(found.sum(dim=0), loads) and len(found) == 4
            self.seen["loads"].clear()
            return super().bias_update(loads, progress)

    balancer = Own()
    module = module_for(balancer, micro_batches=4, cuda_graphs=True)
    trainer(8).fit(module, Windows(batches=8))
    assert balancer.steps == 8
