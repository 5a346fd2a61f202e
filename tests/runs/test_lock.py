"""One writer to a run's folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from s15erav3.__main__ import main
from s15erav3.errors import UserError
from s15erav3.runs.lock import only_trainer
from tests.tiny import TINY, result, rows, train

ENV = os.environ | {"OMP_NUM_THREADS": "1"}


@contextmanager
def held(run_dir: Path) -> Iterator[int]:
    """Another process that holds the folder, killed at the end; its number."""
    code = "import sys, time; from pathlib import Path; from s15erav3.runs.lock import only_trainer\n"
    code += "with only_trainer(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(run_dir)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_second_trainer_is_refused_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fresh or resumed; who holds the folder is told. After a kill -9 the lock is gone with its process.

    Seen to fail without the lock, and with a lock that is a file's existence.
    """
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=2", run_dir=run_dir) == 0
    with held(run_dir) as pid:
        before = content(tmp_path)
        for arguments in (
            [*TINY, f"hydra.run.dir={run_dir}"],
            [*TINY, f"run_dir={run_dir}", f"hydra.run.dir={run_dir}"],
            [f"resume={run_dir}", "trainer.max_steps=3"],
            [f"resume={run_dir / 'checkpoints' / 'last.ckpt'}", "trainer.max_steps=3"],
        ):
            capsys.readouterr()
            assert main(["train", *arguments]) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert f"is still running (process {pid} on {socket.gethostname()})" in line and str(run_dir) in line
        assert content(tmp_path) == before
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=3"]) == 0
    assert result(run_dir)["steps"] == 3


def test_a_fresh_run_is_refused_where_another_is_just_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lock is the first that is written; the folder is left to its holder."""
    with held(tmp_path / "run") as pid:
        before = content(tmp_path)
        assert train("trainer.max_steps=2", run_dir=tmp_path / "run") == 2
        assert f"process {pid}" in capsys.readouterr().err
        assert content(tmp_path) == before
    assert train("trainer.max_steps=2", run_dir=tmp_path / "run") == 0


def test_the_lock_is_taken_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever the run writes first, the holder stands in the lock already."""
    from s15erav3.runs.folder import write_config

    seen = []
    original = write_config

    def looks(run_dir: Path, *args: object) -> None:
        seen.append((sorted(content(run_dir)), (run_dir / ".hydra" / "lock").read_text()))
        original(run_dir, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("s15erav3.session.run.write_config", looks)
    assert train("trainer.max_steps=1", run_dir=tmp_path / "run") == 0
    assert seen == [([".hydra/lock"], f"process {os.getpid()} on {socket.gethostname()}\n")]
    assert (tmp_path / "run" / ".hydra" / "lock").read_text() == ""  # nobody is at work


def test_workers_that_are_forked_do_not_keep_the_lock(tmp_path: Path) -> None:
    """A loader's worker may outlive its trainer, which was killed, for a while."""
    code = f"""
import os, sys, time
from pathlib import Path
from s15erav3.runs.lock import only_trainer
with only_trainer(Path({str(tmp_path / "run")!r})):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(UserError, match="still running"), only_trainer(tmp_path / "run"):
            pass
        holder.kill()
        holder.wait()
        with only_trainer(tmp_path / "run"):
            os.kill(worker, 0)  # is still there
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.slow
def test_of_two_that_begin_at_once_one_wins(tmp_path: Path) -> None:
    """As does one of two that resume at once; the records are of one run."""
    run_dir = tmp_path / "run"
    fresh = [sys.executable, "-m", "s15erav3", "train", *TINY, f"hydra.run.dir={run_dir}", "trainer.max_steps=40"]
    resumed = [sys.executable, "-m", "s15erav3", "train", f"resume={run_dir}", "trainer.max_steps=80"]
    for command, last in ((fresh, 40), (resumed, 80)):
        both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENV) for _ in range(2)]
        said = [process.communicate(timeout=400)[1] for process in both]
        assert sorted(process.returncode for process in both) == [0, 2], said
        (loser,) = [text for text, process in zip(said, both, strict=True) if process.returncode == 2]
        assert "is still running (process" in loser or "already holds a run" in loser or "is complete" in loser
        assert "Traceback" not in "".join(said)
        steps = [row["step"] for row in rows(run_dir / "balance.jsonl")]
        assert steps == sorted(set(steps)) and steps[-1] == last == result(run_dir)["steps"]


@pytest.mark.slow
def test_after_a_kill_minus_nine_the_folder_is_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While a run is at work nobody else is; as soon as its process is gone, it can be gone on with."""
    run_dir = tmp_path / "run"
    command = [*TINY, f"hydra.run.dir={run_dir}", "trainer.max_steps=100000", "data.num_workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "s15erav3", "train", *command], stderr=subprocess.DEVNULL, env=ENV
    )
    try:
        deadline = time.monotonic() + 120
        while not (run_dir / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert main(["train", f"resume={run_dir}"]) == 2
        assert f"process {process.pid} on" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=100000", "trainer.max_time=00:00:00:01"]) == 0
    assert result(run_dir)["status"] == "completed"
