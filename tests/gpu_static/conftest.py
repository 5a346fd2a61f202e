"""A GPU of fake tensors for every test of this folder; without the CUDA build of torch they are skipped."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from tests.conftest import ROOT

SMALL = ["data.sequence_length=32", "data.batch_size=2", "loss_chunk=48"]


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
