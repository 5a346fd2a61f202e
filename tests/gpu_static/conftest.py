"""A GPU of fake tensors for every test of this folder; without the CUDA build of torch they are skipped."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from tests.conftest import ROOT

SMALL = ["data.sequence_length=32", "data.batch_size=2", "loss_chunk=48"]
WAYS = [
    [],
    ["experts=dense", "balancing=none"],
    ["model.num_nextn_predict_layers=1"],
    ["balancing=bip"],
    ["balancing=quantile"],
    ["balancing=aux", "balancing.scope=sequence"],
    ["balancing=expert_choice"],
    ["balancing=relu_routing"],
    ["balancing=zero_experts"],
    ["balancing=causal_sequence_bias"],
    ["balancing.capacity_factor=1.25", "balancing.router_jitter=0.1", "balancing.expert_dropout=0.1"],
    ["experts=e32", "experts.n_group=4", "experts.topk_group=2"],
]
"""Settings of every way of routing that the compiler has to see."""


@pytest.fixture(scope="session")
def gpu() -> ModuleType:
    """``scripts/fake_gpu.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        module = importlib.import_module("fake_gpu")
    if module.UNSUITED:
        pytest.skip(module.UNSUITED)
    return module


@pytest.fixture
def fake_step(gpu: ModuleType) -> Iterator[Callable[..., Callable[[], torch.Tensor]]]:
    """Make a step of ``s15erav3 train SETTINGS`` on few tokens, on a GPU that has no values."""
    with gpu.fake_gpu():
        yield lambda *settings: gpu.fake_step([*SMALL, *settings])
