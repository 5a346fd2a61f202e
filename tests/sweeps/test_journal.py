"""The file of a study: killed writers, half lines, and files that are none."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from s15erav3.errors import UserError
from s15erav3.sweeps.journal import Journal, mend, open_journal
from s15erav3.sweeps.study_parts import make_sampler


def study(file: Path) -> optuna.Study:
    """In a file by our storage."""
    return optuna.create_study(study_name="study", storage=open_journal(file), load_if_exists=True)


def killed_with_the_lock(file: Path) -> None:
    """A writer that dies within its line."""
    Journal(file).lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_that_was_killed_holds_nobody_up(tmp_path: Path) -> None:
    """Optuna's own lock is a file that stays: the next writer would wait for half a minute."""
    file = tmp_path / "study.journal"
    study(file).ask()
    writer = multiprocessing.get_context("fork").Process(target=killed_with_the_lock, args=(file,))
    writer.start()
    writer.join(10)
    assert writer.exitcode == -signal.SIGKILL
    began = time.monotonic()
    assert study(file).ask().number == 1
    assert time.monotonic() - began < 5


def test_half_a_line_is_cut_off_before_the_next_is_written(tmp_path: Path) -> None:
    """What a full disk leaves: the next line would be glued to it, and the study never read again."""
    file = tmp_path / "study.journal"
    first = study(file)
    first.tell(first.ask(), 1.5)
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[-1][:20])
    first.tell(first.ask(), 0.5)
    again = optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(JournalFileBackend(str(file))))
    assert [trial.value for trial in again.trials] == [1.5, 0.5]
    assert file.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"a\n", b"a\n"), (b"a\nb", b"a\n"), (b"abc", b""), (b"a\n" + b"b" * 9000, b"a\n")],
)
def test_mending_keeps_every_whole_line(before: bytes, after: bytes, tmp_path: Path) -> None:
    """And nothing else, however long the rest is."""
    file = tmp_path / "file"
    file.write_bytes(before)
    mend(file)
    assert file.read_bytes() == after


@pytest.mark.parametrize(
    "content", [b"SQLite format 3\0\n\n", b"{}\n", b"[1]\n", b'{"op_code": 77}\n', b"\xff\n\n", b"[" * 50_000 + b"\n\n"]
)
def test_a_file_that_is_no_study_is_told(content: bytes, tmp_path: Path) -> None:
    """One sentence with the file's name, and the file stays as it is."""
    file = tmp_path / "study.journal"
    file.write_bytes(content)
    with pytest.raises(UserError, match="is not a study of this program"):
        study(file)
    assert file.read_bytes() == content


def test_no_study_is_written_through_a_link(tmp_path: Path) -> None:
    """Folders of sweeps are handed on: a link in one would lead to any file of the reader's."""
    (tmp_path / "mine").write_text("")
    (tmp_path / "study.journal").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="is a link"):
        study(tmp_path / "study.journal")


@pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
@pytest.mark.parametrize(
    "settings",
    [
        {"_target_": "optuna.samplers.CmaEsSampler"},
        {
            "_target_": "optuna.samplers.PartialFixedSampler",
            "fixed_params": {},
            "base_sampler": {"_target_": "optuna.samplers.CmaEsSampler"},
        },
    ],
)
def test_a_sampler_that_unpickles_what_the_file_holds_is_refused(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CMA-ES keeps its state as a pickle among a trial's attributes."""
    from s15erav3.sweeps import study_parts

    class Cma(optuna.samplers.RandomSampler):
        """In its place, as it needs a package of its own."""

    monkeypatch.setattr(study_parts, "CmaEsSampler", Cma)
    monkeypatch.setattr(optuna.samplers, "CmaEsSampler", Cma)
    with pytest.raises(UserError, match="execute a pickle"):
        make_sampler(settings, 0)
