"""Checkpoints written in the background: the file holds the moment of the save, in order, and errors are not lost."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from s15erav3.runs.checkpoint_io import IN_FLIGHT, WholeFileIO, on_host


def payload(step: int = 0) -> dict:
    weight = torch.arange(6.0).view(2, 3)
    return {
        "global_step": step,
        "state_dict": {"net.a": weight, "net.same": weight, "net.turned": weight.T},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "moments": [weight + 1, (weight + 2,)]}}}],
        "rng": {"python": [3, [1, 2], None]},
    }


def read(file: Path) -> dict:
    return torch.load(file, weights_only=True)


def disk_is_full(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def eventually(what: Callable[[], bool]) -> bool:
    return any(what() or time.sleep(0.01) for _ in range(1000))


@pytest.fixture
def files() -> Iterator[WholeFileIO]:
    files = WholeFileIO(background=True)
    yield files
    files.teardown()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is written before it is set."""
    gate, save = threading.Event(), torch.save
    monkeypatch.setattr(torch, "save", lambda *args: save(*args) if gate.wait(60) else pytest.fail("never opened"))
    yield gate
    gate.set()


def test_the_file_holds_the_moment_of_the_save(tmp_path: Path, files: WholeFileIO, gate: threading.Event) -> None:
    """Seen to fail when tensors are written without a copy, and when containers are shared."""
    saved, wanted = payload(), payload()
    files.save_checkpoint(saved, tmp_path / "new" / "last.ckpt")
    saved["state_dict"]["net.a"].zero_()
    saved["optimizer_states"][0]["state"][0]["step"] += 1
    saved["rng"]["python"][1].append(3)
    gate.set()
    files.finish()
    found = read(tmp_path / "new" / "last.ckpt")
    assert str(found) == str(wanted)
    assert found["state_dict"]["net.a"].data_ptr() == found["state_dict"]["net.same"].data_ptr()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["last.ckpt"]


def test_training_waits_only_when_too_many_are_unwritten(
    tmp_path: Path, files: WholeFileIO, gate: threading.Event
) -> None:
    """Two are held; the third waits for the first. The last save of a file is what stays."""
    file = tmp_path / "last.ckpt"
    for step in range(IN_FLIGHT):
        files.save_checkpoint(payload(step), file)
    third = threading.Thread(target=files.save_checkpoint, args=(payload(IN_FLIGHT), file))
    third.start()
    time.sleep(0.2)
    assert third.is_alive() and not file.exists()
    gate.set()
    third.join(60)
    files.finish()
    assert read(file)["global_step"] == IN_FLIGHT


@pytest.mark.parametrize("told_by", ["save_checkpoint", "finish", "teardown"])
def test_an_error_of_the_thread_is_raised_in_training(
    told_by: str, tmp_path: Path, files: WholeFileIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, by whatever comes next; the old file stays, and the next save works."""
    file = tmp_path / "last.ckpt"
    files.save_checkpoint(payload(1), file)
    files.finish()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_is_full)
        files.save_checkpoint(payload(2), file)
        assert eventually(files._writes[0].done)
    calls = {"save_checkpoint": lambda: files.save_checkpoint(payload(2), file)}
    with pytest.raises(OSError, match="No space left"):
        calls.get(told_by, getattr(files, told_by))()
    assert read(file)["global_step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    files.save_checkpoint(payload(3), file)
    files.finish()
    assert read(file)["global_step"] == 3


def test_a_wait_that_ends_early_leaves_the_write_to_the_next(
    tmp_path: Path, files: WholeFileIO, gate: threading.Event
) -> None:
    """After a second signal, or where the watch over ranks waits too. Seen to fail when a write is forgotten first."""
    for step in range(2):
        files.save_checkpoint(payload(step), tmp_path / "last.ckpt")
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        files.finish(seconds=0.2)
    assert time.monotonic() - began < 5 and len(files._writes) == 2
    gate.set()
    files.finish(seconds=60)
    assert read(tmp_path / "last.ckpt")["global_step"] == 1


def test_what_ended_training_is_not_hidden_by_a_failed_write(
    tmp_path: Path, files: WholeFileIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning tears down while it handles the error: that one is raised, and the other is told."""
    monkeypatch.setattr(torch, "save", disk_is_full)
    files.save_checkpoint(payload(), tmp_path / "last.ckpt")
    try:
        raise KeyError
    except KeyError:
        files.teardown()  # raises nothing
    assert "a checkpoint was not written: " in capsys.readouterr().err


def test_on_a_cpu_a_checkpoint_is_written_at_once(tmp_path: Path) -> None:
    files = WholeFileIO()
    files.save_checkpoint(payload(5), tmp_path / "last.ckpt")
    assert read(tmp_path / "last.ckpt")["global_step"] == 5 and not files._writes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_s_tensors_are_copied_before_training_goes_on() -> None:
    """Pinned copies, complete when the call returns, although the device changes the tensor at once."""
    tensor = torch.full((64, 1024, 1024), 1.0, device="cuda")
    copied: Tensor = on_host({"weight": tensor})["weight"]
    tensor.zero_()
    assert copied.device.type == "cpu" and copied.is_pinned() and bool((copied == 1).all())
