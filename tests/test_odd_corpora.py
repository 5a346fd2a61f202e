"""Corpora that are not what they seem, through the verbs: told, and no harm to other jobs of a sweep."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken

from s15erav3.__main__ import main
from s15erav3.data.messages import listed
from tests.tiny import TINY, train

PROSE = "".join(f"Paragraph {i} of the words of a text.\n\n" for i in range(200))
SHORT = [*TINY, "data=text", "data.vocab_size=260", "data.sequence_length=16", "trainer.max_steps=1"]


class PanicException(BaseException):
    """As Rust's panics arrive."""


def test_a_folder_tells_what_it_passes_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Linked text is trained on, the rest named, and brackets in names are no markup."""
    top, real = tmp_path / "top", tmp_path / "real"
    for folder in (top, real):
        folder.mkdir()
        (folder / "a.txt").write_text(PROSE.replace("text", folder.name))
    (top / "link").symlink_to(real)
    (top / "[bold]empty.txt").touch()
    os.mkfifo(top / "pipe.txt")
    assert train(*SHORT, f"data.path={top}", run_dir=tmp_path / "run[" / "b]") == 0
    said = "".join(capsys.readouterr().err.split())
    assert f"skipped{top}/[bold]empty.txt(empty),{top}/pipe.txt(anamedpipe)" in said
    assert f"{tmp_path}/run[/b]" in said
    (meta,) = [
        meta
        for file in Path(os.environ["S15ERAV3_CACHE"]).glob("tokens/*/meta.json")
        if (meta := json.loads(file.read_text()))["tokenizer"] == "corpus_bpe_260"
    ]
    assert sum(part["documents"] for part in meta["parts"].values()) == 400
    assert (
        main(["evaluate", str(tmp_path / "run[" / "b]"), f"data.path={top}", "split=all", f"output={tmp_path}/e.json"])
        == 0
    )
    assert f"skipped: {top}/[bold]empty.txt (empty)" in capsys.readouterr().err


def test_a_panic_ends_its_own_job_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other jobs of a sweep are trained, and the reason is one sentence."""
    for name in ("good", "bad"):
        (tmp_path / f"{name}.txt").write_text(PROSE.replace("text", name))
    encode = tiktoken.Encoding.encode_to_numpy

    def panic(self: tiktoken.Encoding, text: str, **settings: Any) -> np.ndarray:
        if "bad" in text:
            raise PanicException("StackOverflow")
        return encode(self, text, **settings)

    monkeypatch.setattr(tiktoken.Encoding, "encode_to_numpy", panic)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *SHORT, f"data.path={tmp_path}/bad.txt,{tmp_path}/good.txt", "sweep.name=s"]) == 2
    said = capsys.readouterr().err
    assert "tokenizer=corpus_bpe_260 cannot encode this text (the Rust code panicked: StackOverflow)" in said
    assert "Traceback" not in said
    ends = [json.loads(file.read_text())["status"] for file in sorted(tmp_path.glob("multirun/s/*/result.json"))]
    assert ends == ["failed", "completed"]


def test_a_home_that_is_nobodys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """``~name`` of no user is a path like others, not a traceback."""
    assert train(*SHORT, "data.path=~nobody-of-this-name/x.txt", run_dir=tmp_path / "run") == 2
    assert "~nobody-of-this-name/x.txt does not exist" in capsys.readouterr().err


def test_long_lists_are_cut() -> None:
    """A thousand empty files are five names and a number."""
    assert listed([str(i) for i in range(1005)]) == "0, 1, 2, 3, 4 and 1,000 more"
    assert listed(["a", "b"]) == "a, b"
