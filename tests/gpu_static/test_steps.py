"""Whole training steps of everything in conf/ on a GPU of fake tensors.

An operation that reads a value on the host, mixes devices, or hands a kernel strides that it refuses, raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor

from tests.conftest import ROOT

CONF = ROOT / "conf"


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def take(step: Any, times: int = 2) -> None:
    """Take steps, the second with the state that the first one made, and look where their results are."""
    for _ in range(times):
        loss = step()
    for value in step.module.last_step:
        assert not isinstance(value, torch.Tensor) or value.device.type == "cuda"
    assert isinstance(loss, FakeTensor) and loss.dtype == torch.float32
    states = [value for state in step.optimizer.state.values() for value in state.values()]
    assert states and all(value.device.type == "cuda" for value in states)


@pytest.mark.parametrize("balancing", choices("balancing"))
@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_every_strategy(fake_step: Callable[..., Any], balancing: str, optimizer: str) -> None:
    """With multi-token prediction, accumulation and clipping."""
    experts = "dense" if balancing == "none" else "e16"
    take(
        fake_step(
            "model=pico",
            f"experts={experts}",
            f"balancing={balancing}",
            f"optimizer={optimizer}",
            "model.num_nextn_predict_layers=1",
            "trainer.accumulate_grad_batches=2",
        )
    )


@pytest.mark.parametrize("model", choices("model"))
def test_every_model(fake_step: Callable[..., Any], model: str) -> None:
    take(fake_step(f"model={model}"), 1 if model == "deepseek_v3" else 2)


@pytest.mark.parametrize("experts", choices("experts"))
def test_every_choice_of_experts(fake_step: Callable[..., Any], experts: str) -> None:
    take(fake_step(f"experts={experts}", *(["balancing=none"] if experts == "dense" else [])))


@pytest.mark.parametrize("schedule", choices("schedule"))
def test_every_schedule(fake_step: Callable[..., Any], schedule: str) -> None:
    take(fake_step("model=pico", f"schedule={schedule}"))


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment(fake_step: Callable[..., Any], experiment: str) -> None:
    take(fake_step(f"experiment={experiment}"))


@pytest.mark.parametrize(
    "settings",
    [
        ["balancing.capacity_factor=1.25"],
        ["balancing.z_loss=1e-3", "balancing.router_jitter=0.1", "balancing.expert_dropout=0.1"],
        ["experts=e32", "experts.n_group=4", "experts.topk_group=2"],
        ["experts.scoring_func=softmax", "experts.norm_topk_prob=false"],
        ["trainer.skip_nonfinite=3", "trainer.gradient_clip_val=0"],
        ["optimizer=muon", "optimizer.router=muon", "trainer.skip_nonfinite=3"],
        ["model.q_lora_rank=16", "model.attention_bias=true", "model.tie_word_embeddings=false"],
        ["model.rope_scaling={factor: 4, original_max_position_embeddings: 256}"],
        ["model.num_nextn_predict_layers=2", "trainer.accumulate_grad_batches=3"],
    ],
    ids=" ".join,
)
def test_settings_that_take_another_path(fake_step: Callable[..., Any], settings: list[str]) -> None:
    take(fake_step("model=pico", *settings))


def test_what_reads_a_value_is_found(fake_step: Callable[..., Any]) -> None:
    """The suite itself can fail: a strategy that looks at its loads on the host."""
    step = fake_step("model=pico")
    step.module.balancer.bias_update = lambda loads, progress: loads * loads.max().item()
    with pytest.raises(DataDependentOutputException):
        step()


def test_what_stays_on_the_host_is_found(fake_step: Callable[..., Any]) -> None:
    """A strategy with state beside its buffers."""
    step, shares = fake_step("model=pico"), torch.rand(8)
    step.module.balancer.bias_update = lambda loads, progress: loads * shares
    with pytest.raises(RuntimeError, match="device"):
        step()


def test_strides_that_a_kernel_refuses_are_found(fake_step: Callable[..., Any]) -> None:
    """Experts 12 wide: rows of 24 bytes."""
    from s15erav3.model.grouped import grouped_linear

    ends = torch.tensor([2, 4], dtype=torch.int32, device="cuda")
    for width, fits in ((16, True), (12, False)):
        x, weight = (torch.empty(*shape, width, device="cuda").bfloat16() for shape in ((4,), (2, 8)))
        if fits:
            assert grouped_linear(x, weight, ends).shape == (4, 8)
            continue
        with pytest.raises(RuntimeError, match="multiple of 16 bytes"):
            grouped_linear(x, weight, ends)
