"""``cuda_graphs=true``: what it refuses, and a whole run on a simulated graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from s15erav3.balancing import LossFree
from s15erav3.errors import UserError
from s15erav3.session import prepare
from s15erav3.session.recording import refuse_unrecordable
from s15erav3.training import cuda_graph
from tests.model.reference import tiny_config
from tests.test_bad_input import refusal
from tests.tiny import TINY, rows, train
from tests.training.simulated_graph import SimulatedGraph

DENSE = {"n_routed_experts": 0, "n_shared_experts": 0, "num_experts_per_tok": 0, "first_k_dense_replace": 0}


def test_without_a_gpu_it_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    said = refusal(capsys, "train", "cuda_graphs=true", *TINY, f"hydra.run.dir={run}")
    assert "cuda_graphs=true needs a GPU" in said and not run.exists()


@pytest.mark.parametrize(
    ("ranks", "precision", "capability", "config", "words"),
    [
        (2, "bf16-mixed", (9, 0), {}, "this run has 2 ranks"),
        (1, "32-true", (9, 0), {}, "found 32-true and 9.0"),
        (1, "bf16-mixed", (8, 0), {}, "found bf16-mixed and 8.0"),
        (1, "bf16-mixed", (9, 0), {}, None),
        (1, "32-true", (8, 0), DENSE, None),
    ],
)
def test_gpus_that_can_and_cannot(
    ranks: int,
    precision: str,
    capability: tuple[int, int],
    config: dict[str, int],
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    trainer: Any = SimpleNamespace(strategy=strategy, world_size=ranks, precision=precision)
    if words is None:
        refuse_unrecordable(trainer, tiny_config(**config))
        return
    with pytest.raises(UserError, match=words):
        refuse_unrecordable(trainer, tiny_config(**config))


def test_a_strategy_that_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that reads a value on the host. What was trained before is kept."""
    monkeypatch.setattr(prepare, "refuse_unrecordable", lambda *_: None)
    monkeypatch.setattr(cuda_graph, "Graph", SimulatedGraph)
    monkeypatch.setattr(LossFree, "observe", lambda self, found: found.routings[0].load.max().item())
    settings = ["cuda_graphs=true", "trainer.max_steps=6", "callbacks.checkpoint.every_n_steps=2"]
    said = refusal(capsys, "train", *TINY, *settings, f"hydra.run.dir={tmp_path / 'run'}")
    assert "cuda_graphs=true: a step cannot be recorded (operation not permitted" in said and "leave it out" in said
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_a_run_and_its_continuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Validations, samples and checkpoints between recorded steps; the continuation records anew. Bit for bit."""
    monkeypatch.setattr(prepare, "refuse_unrecordable", lambda *_: None)
    monkeypatch.setattr(cuda_graph, "Graph", SimulatedGraph)
    usual = ["balancing=quantile", "trainer.accumulate_grad_batches=2", "schedule=constant"]
    assert train(*usual, "trainer.max_steps=14", run_dir=tmp_path / "plain") == 0
    assert "CUDA graph" not in capsys.readouterr().err
    assert train(*usual, "trainer.max_steps=7", "cuda_graphs=true", run_dir=tmp_path / "recorded") == 0
    assert "CUDA graph" in capsys.readouterr().err
    assert train(f"resume={tmp_path / 'recorded'}", "trainer.max_steps=14") == 0
    ours, right = (rows(tmp_path / name / "balance.jsonl") for name in ("recorded", "plain"))
    assert [row for row in ours if row["step"] != 7] == right
    ours, right = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("recorded", "plain")
    )
    assert all(torch.equal(value, right[key]) for key, value in ours.items())
