"""The checks of the GPU, tried on the CPU: what is right passes, what is broken fails, and nothing stops the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from s15erav3.machine import checks, programs
from s15erav3.machine.examine import run_one
from s15erav3.model import experts
from s15erav3.training import cuda_graph
from s15erav3.training.module import LanguageModule
from tests.tiny import DATA, MODEL
from tests.training.simulated_graph import SimulatedGraph


def test_the_products_of_the_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_one(checks.grouped_mm, "cpu")["status"] == "passed"
    right = checks.grouped_linear
    monkeypatch.setattr(checks, "grouped_linear", lambda x, weight, ends: right(x, weight, ends.roll(1)))
    assert run_one(checks.grouped_mm, "cpu")["status"] == "failed"


@pytest.mark.slow
def test_bf16_against_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerances are wide enough for bf16 and too narrow for a wrong kernel of the experts."""
    figures = checks.parity("cpu")
    assert figures["loss_difference"] < checks.LOSS_TOLERANCE / 10 and figures["least_cosine"] > 0.98
    right = experts.grouped_linear

    def wrong(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return right(x, weight, ends - (ends < len(x)).int() * 4 if x.dtype == torch.bfloat16 else ends)

    monkeypatch.setattr(experts, "grouped_linear", wrong)
    broken = run_one(checks.parity, "cpu")
    assert broken["status"] == "failed" and "least_cosine" in broken["why"]


@pytest.mark.slow
def test_steps_of_the_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the same calls run where a wait of the host raises."""
    assert run_one(checks.no_sync, "cpu")["status"] == "passed"

    def waits(self: LanguageModule, batch: torch.Tensor, index: int) -> Any:
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(LanguageModule, "training_step", waits)
    broken = run_one(checks.no_sync, "cpu")
    assert broken["status"] == "failed" and "synchronizing" in broken["why"] and "traceback" in broken


class Breaks(dict[str, Any]):
    """Counters of torch's compiler that are not forgotten."""

    def clear(self) -> None:
        pass


@pytest.mark.slow
def test_recorded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a simulated graph. Replays that compute nothing are found, and breaks in a compiled block."""
    monkeypatch.setattr(cuda_graph, "Graph", SimulatedGraph)
    monkeypatch.setattr(checks, "GRAPHS", {"eager": ["model=pico", "data.sequence_length=32"]})
    figures = checks.graph_capture("cpu")
    assert figures["eager_loss_difference"] == 0 and figures["eager_recorded_ms"] > 0
    with monkeypatch.context() as patch:
        patch.setattr(checks, "counters", Breaks(graph_break={"a print": 1}))
        assert "a print" in run_one(checks.graph_capture, "cpu")["why"]
    monkeypatch.setattr(SimulatedGraph, "replay", lambda self: None)
    broken = run_one(checks.graph_capture, "cpu")
    assert broken["status"] == "failed" and "recorded steps differ" in broken["why"]


@pytest.mark.slow
def test_programs() -> None:
    """Two jobs at once, a short training, and a program that fails."""
    pico = ("model=pico", "trainer.max_steps=2", "data.sequence_length=32", "data.batch_size=2")
    assert len(programs.packing("cpu", *pico)["tokens_per_second"]) == 2
    figures = programs.training("cpu", 2, *pico, "tokenizer=corpus_bpe", "data.vocab_size=512")
    assert figures["steps"] == 2 and figures["val/bpb"] > 0
    broken = run_one(lambda device: programs.training(device, 1, "model=pica"), "cpu")
    assert broken["status"] == "failed" and "pica" in broken["why"]


@pytest.mark.slow
def test_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes are two devices on a CPU. A strategy that trains on other batches is found."""
    few = [*MODEL, *DATA, "trainer.val_check_interval=20"]
    losses = programs.several_devices("cpu", *few)
    assert losses.keys() == {"auto", "ddp", "fsdp", "expert_parallel"}

    def wrong(verb: str, *arguments: str) -> str:
        if verb != "train":
            return ""
        (place,) = (word.partition("=")[2] for word in arguments if word.startswith("hydra.run.dir="))
        loss = 6.01 if "trainer=fsdp" in arguments else 6.0
        Path(place).mkdir()
        return str(Path(place, "result.json").write_text(json.dumps({"train/loss": loss})))

    monkeypatch.setattr(programs, "_verb", wrong)
    with pytest.raises(RuntimeError, match="differ"):
        programs.several_devices("cpu", *few)


def test_without_the_scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """An installed wheel has none."""
    monkeypatch.setattr(programs, "SCRIPTS", tmp_path)
    missing = run_one(programs.bench_step, "cpu")
    assert missing["status"] == "not run" and "bench_step.py" in missing["why"]
