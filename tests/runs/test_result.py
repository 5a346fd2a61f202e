"""Which commit a run says that it was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from s15erav3.runs.result import git_commit


def git(root: Path, *arguments: str) -> str:
    """What git says in ``root``."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_the_tree_was_edited(tmp_path: Path) -> None:
    """Prevents a run that claims a commit whose code it did not run."""
    assert git_commit(tmp_path) is None  # an installed package
    git(tmp_path, "init", "-q")
    assert git_commit(tmp_path) is None  # no commit yet
    (tmp_path / "code.py").write_text("one")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == head
    (tmp_path / "new.py").touch()
    assert git_commit(tmp_path) == f"{head}+changes"
    (tmp_path / "new.py").unlink()
    (tmp_path / "code.py").write_text("two")
    assert git_commit(tmp_path) == f"{head}+changes"
