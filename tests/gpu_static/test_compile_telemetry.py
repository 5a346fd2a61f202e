"""The compiler's tracing, and telemetry up to its one copy to the host, on a GPU of fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from s15erav3.callbacks.telemetry import Telemetry
from tests.gpu_static.conftest import WAYS


class Copied(Exception):
    """Telemetry has its numbers on the host."""


@pytest.mark.parametrize("settings", WAYS, ids=" ".join)
def test_the_net_is_one_graph(fake_step: Callable[..., Any], settings: list[str]) -> None:
    """Forward and backward, without a break, compiled once for both steps."""
    torch.compiler.reset()
    counters.clear()
    step = fake_step("model=pico", *settings)
    step.module.net.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    step()
    step()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.parametrize(
    "settings", [[], ["experts=e32"], ["balancing.capacity_factor=1.25"], ["balancing=zero_experts"]], ids=" ".join
)
def test_telemetry_copies_once(
    fake_step: Callable[..., Any], settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps between two rows read nothing; a row is one copy, after which only the host computes."""
    step = fake_step("model=pico", "trainer.skip_nonfinite=2", *settings)
    telemetry = Telemetry(str(tmp_path), every_n_steps=3)
    telemetry.throughput = SimpleNamespace(add=lambda tokens: None)  # type: ignore[assignment]
    copies: list[torch.Tensor] = []

    def to_host(tensor: torch.Tensor) -> torch.Tensor:
        copies.append(tensor)
        raise Copied

    monkeypatch.setattr(torch.Tensor, "cpu", to_host)
    step.trainer.global_step = 3
    for _ in range(2):
        step()
        telemetry.on_train_batch_end(step.trainer, step.module, None, step.batch, 0)
    step()
    with pytest.raises(Copied):
        telemetry.on_train_batch_end(step.trainer, step.module, None, step.batch, 0)
    (row,) = copies
    assert row.device.type == "cuda" and row.ndim == 1
