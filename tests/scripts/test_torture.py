"""Runs killed at the worst moments leave what runs in peace leave; bits that flip are noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def torture(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    command = [sys.executable, ROOT / "scripts" / "torture.py", "--folder", folder, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_kills_change_nothing_and_flipped_bits_are_noticed(tmp_path: Path) -> None:
    """Some kills of each configuration; a record that is there already is gone on from."""
    done = torture(tmp_path, "--kills", "12", "--flips", "40")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything the same" in done.stdout
    trials = (tmp_path / "trials.jsonl").read_text()
    again = torture(tmp_path, "--kills", "12", "--flips", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "trials.jsonl").read_text() == trials


@pytest.mark.slow
def test_a_run_that_forgets_is_found_out(tmp_path: Path) -> None:
    """Without the generators in the checkpoint, resumed runs with jitter differ, and the script says so."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "import s15erav3.callbacks.run_state as state, torture\n"
        "state.restore_rng = lambda *saved: None\n"
        "sys.exit(torture.main())"
    )
    options = ["--folder", tmp_path, "--kills", "3", "--flips", "1", "--configs", "workers"]
    done = subprocess.run([sys.executable, "-c", program, *options], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "differs" in done.stdout
