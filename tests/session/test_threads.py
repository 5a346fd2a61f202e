"""The number of threads: who sets it, what is measured once, and that a resumed run keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from s15erav3.__main__ import main
from s15erav3.session import threads
from s15erav3.session.threads import Shape, candidates, fastest, measure, remembered, settle
from s15erav3.training.hardware import seconds_by_threads
from tests.model.reference import tiny_config
from tests.tiny import result, train

SHAPE = Shape(tiny_config(num_layers=3, first_k_dense_replace=1, num_nextn_predict_layers=1), 2, 8, "32-true", 16)


@pytest.fixture(autouse=True)
def two_free_cores(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> Iterator[None]:
    """Nothing is set outside, whatever the machine; torch gets its threads back."""
    for name in threads.PINS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def measures(monkeypatch: pytest.MonkeyPatch, *answers: dict[int, float]) -> list[Any]:
    """Replace the measurement by ``answers``; return the list of what it was asked."""
    asked: list[Any] = []

    def answer(shape: Shape, cores: int) -> dict[int, float]:
        asked.append((shape, cores))
        return answers[len(asked) - 1]

    monkeypatch.setattr(threads, "measure", answer)
    return asked


def test_more_threads_must_gain_enough() -> None:
    """Catches the number of all cores taken for a gain that is noise, and a slow number between two fast ones."""
    assert fastest({1: 1.0, 2: 0.97, 4: 0.96}) == 1
    assert fastest({1: 1.0, 2: 1.3, 4: 0.6, 8: 0.59}) == 4
    assert fastest({2: 0.5, 1: 1.0}) == 2
    assert [candidates(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_a_machine_is_measured_once_for_a_shape(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    """Later runs read it; another shape, another number of cores or a damaged file is measured again."""
    told = {1: 2.0, 2: 1.0}
    asked = measures(monkeypatch, *[told] * 3, {1: 1.0, 2: 1.0, 4: 1.0})
    assert remembered(SHAPE, 2) == remembered(SHAPE, 2) == told
    assert len(asked) == 1
    remembered(SHAPE._replace(windows=4), 2)
    assert len(asked) == 2
    (first, *_) = sorted((fresh_cache / "threads").glob("*.json"))
    for file in (fresh_cache / "threads").glob("*.json"):
        file.write_text("{")
    assert remembered(SHAPE, 2) == told and len(asked) == 3 and first.exists()
    remembered(SHAPE, 4)
    assert len(asked) == 4


def test_the_depth_of_the_model_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep over num_layers measures once."""
    asked = measures(monkeypatch, {1: 1.0, 2: 1.0})
    for layers in (3, 9):
        model = tiny_config(num_layers=layers, first_k_dense_replace=1)
        remembered(SHAPE._replace(model=model), 2)
    assert len(asked) == 1


def test_what_is_set_outside_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the setting, then the resumed run's number, then the measurement."""
    alone: dict[str, Any] = {"device": "cpu", "ranks": 1}
    measures(monkeypatch, {1: 2.0, 2: 1.0})
    torch.set_num_threads(1)
    assert settle("auto", SHAPE, **alone, earlier=None) == (2, "fastest of 1 (2000 ms), 2 (1000 ms)")
    assert torch.get_num_threads() == 2
    assert settle("auto", SHAPE, **alone, earlier=1).number == torch.get_num_threads() == 1
    assert settle("auto", SHAPE, **alone, earlier=64).number == 2  # of a larger machine
    assert settle(3, SHAPE, **alone, earlier=1).number == torch.get_num_threads() == 3
    assert settle("auto", SHAPE, device="cuda", ranks=1, earlier=None) == (3, "")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert settle("auto", SHAPE, **alone, earlier=1) == (3, "set by OMP_NUM_THREADS")
    assert settle(1, SHAPE, **alone, earlier=1) == (3, "set by OMP_NUM_THREADS; trainer.threads=1 has no effect")


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable keeps Lightning from setting a number of its own, and the other ranks inherit it."""
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert settle("auto", SHAPE, device="cpu", ranks=3, earlier=None).number == 2
    assert threads.os.environ["OMP_NUM_THREADS"] == "2"
    assert settle(5, SHAPE, device="cpu", ranks=3, earlier=None).number == 2


@pytest.mark.parametrize(
    "model",
    [SHAPE.model, tiny_config(n_routed_experts=0, n_shared_experts=0, num_experts_per_tok=0, first_k_dense_replace=0)],
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_measuring_leaves_no_trace(model: Any, precision: str) -> None:
    """Catches numbers drawn from the generator of training: a run that measures would differ from the next one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    took = measure(SHAPE._replace(model=model, precision=precision), 2)
    assert took.keys() == {1, 2} and all(0 < seconds < 60 for seconds in took.values())
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == 1


def test_candidates_take_turns_and_the_limit_ends_them() -> None:
    """Each is measured in its own number of threads."""
    seen: list[int] = []
    seconds_by_threads(lambda: seen.append(torch.get_num_threads()), [1, 2], rounds=2)
    assert seen == [1, 2, 1, 2]
    seconds_by_threads(lambda: seen.append(0), [1, 2], limit=0)
    assert seen[4:] == [0, 0]


@pytest.mark.slow
def test_a_resumed_run_keeps_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if a measurement would now say otherwise; what is set outside wins, and the difference is shown."""
    run_dir = tmp_path / "run"
    measures(monkeypatch, {1: 2.0, 2: 1.0})
    assert train("trainer.max_steps=2", run_dir=run_dir) == 0
    assert result(run_dir)["threads"] == 2
    assert "2, fastest of 1 (2000 ms), 2 (1000 ms)" in capsys.readouterr().err
    measures(monkeypatch, {1: 1.0, 2: 1.0})
    for file in (tmp_path / "fresh-cache" / "threads").glob("*.json"):
        file.unlink()
    torch.set_num_threads(1)
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=3"]) == 0
    assert result(run_dir)["threads"] == torch.get_num_threads() == 2
    assert "2, as before the resume" in capsys.readouterr().err
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=4"]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "threads 2 1 harmless" in shown and "1, set by OMP_NUM_THREADS" in shown
    assert result(run_dir)["threads"] == 1
