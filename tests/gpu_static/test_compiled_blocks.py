"""What Inductor makes of the blocks for a GPU: Triton's source code for every way of routing, and no product more."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from tests.conftest import ROOT
from tests.gpu_static.conftest import SMALL, WAYS


@pytest.fixture
def kernels(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``scripts/count_kernels.py``; ``gpu`` skips first where it cannot work."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("count_kernels")


@pytest.mark.parametrize("settings", WAYS, ids=" ".join)
def test_blocks_become_fewer_kernels_and_the_same_products(
    kernels: ModuleType, gpu: ModuleType, settings: list[str]
) -> None:
    """Seen to fail with outputs of a kernel counted as kernels, and with attention left out."""
    few = [*SMALL, "model=pico", *settings]
    with gpu.fake_gpu():
        eager = kernels.count(gpu.fake_step(few), compiled=False)
        compiled = kernels.count(gpu.fake_step([*few, "compile=true"]), compiled=True)
    assert sum(total.flops for total in compiled.values()) == sum(total.flops for total in eager.values())
    assert sum(total.kernels for total in compiled.values()) < sum(total.kernels for total in eager.values())
    assert compiled["blocks, Triton"].kernels > 0 and compiled["loss, Triton"].kernels > 0
