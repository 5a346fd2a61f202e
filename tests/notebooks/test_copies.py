"""``python -m s15erav3.notebooks FOLDER``."""

from __future__ import annotations

from pathlib import Path

import pytest

from s15erav3.notebooks.__main__ import main
from tests.notebooks.test_notebooks import FILES


def test_all_notebooks_are_copied_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new one that is forgotten would not reach those who have only the wheel."""
    folder = tmp_path / "a new" / "place"
    assert main([str(folder)]) == 0
    assert FILES and {file.name: file.read_bytes() for file in FILES} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }
    assert capsys.readouterr().out.split("\n") == [*(str(folder / file.name) for file in FILES), ""]


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A notebook that somebody has worked on; the others are not copied either. And a file is no folder."""
    mine = tmp_path / FILES[-1].name
    mine.write_text("mine")
    assert main([str(tmp_path)]) == 2
    assert [file.name for file in tmp_path.iterdir()] == [mine.name] and mine.read_text() == "mine"
    assert capsys.readouterr().err.startswith(f"error: {mine} already exists")
    assert main([str(mine / "below")]) == 2
    printed = capsys.readouterr().err
    assert "cannot be written" in printed and printed.count("\n") == 1
