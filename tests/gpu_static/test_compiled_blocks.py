"""What Inductor makes of the blocks for a GPU: Triton's source code for every way of routing, and no product more."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

SETTINGS = [
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


@pytest.fixture
def kernels(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``scripts/count_kernels.py``."""
    monkeypatch.syspath_prepend(gpu.__file__.rpartition("/")[0])
    return importlib.import_module("count_kernels")


@pytest.mark.parametrize("settings", SETTINGS, ids=" ".join)
def test_blocks_become_fewer_kernels_and_the_same_products(
    kernels: ModuleType, gpu: ModuleType, settings: list[str]
) -> None:
    """Seen to fail with outputs of a kernel counted as kernels, and with attention left out."""
    few = ["model=pico", "data.sequence_length=32", "data.batch_size=2", "loss_chunk=48", *settings]
    with gpu.fake_gpu():
        eager = kernels.count(gpu.fake_step(few), compiled=False)
        compiled = kernels.count(gpu.fake_step(few), compiled=True)
    assert sum(total.flops for total in compiled.values()) == sum(total.flops for total in eager.values())
    assert sum(total.kernels for total in compiled.values()) < sum(total.kernels for total in eager.values())
    assert compiled["blocks, Triton"].kernels > 0
