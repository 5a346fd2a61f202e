"""A checkpoint is what was written, to the bit, or it is refused; and another one of the run takes its place."""

from __future__ import annotations

import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from s15erav3.__main__ import main
from s15erav3.errors import UserError
from s15erav3.runs.checkpoint import load_checkpoint
from tests.tiny import result, train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps with checkpoints after 2, 4 and 6, best after 6."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    settings = ["callbacks.checkpoint.keep_every_n_steps=2", "trainer.val_check_interval=2"]
    assert train("trainer.max_steps=6", *settings, run_dir=folder) == 0
    return folder


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    return shutil.copytree(run_dir, tmp_path / "copy")


def same(one: Any, other: Any) -> bool:
    """Whether two payloads are alike to the last bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape and one.stride() == other.stride()
        return alike and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def structure(file: Path) -> list[int]:
    """Places of the bytes that are no part's content: the parts' heads, the directory at the end."""
    with zipfile.ZipFile(file) as archive:
        content = set()
        for part in archive.infolist():
            with archive.open(part) as stream:
                start = stream._orig_compress_start  # type: ignore[attr-defined]
            content |= set(range(start, start + part.file_size))
    return [i for i in range(file.stat().st_size) if i not in content]


@pytest.mark.slow
def test_a_flipped_bit_is_noticed_or_changes_nothing(run_dir: Path, tmp_path: Path) -> None:
    """50 anywhere, which are mostly weights, 250 in what holds the file together, such as its checksums, and every
    bit of its end.

    Seen to fail without the checksums.
    """
    file, broken = run_dir / "checkpoints" / "last.ckpt", tmp_path / "broken.ckpt"
    good, content, draw = load_checkpoint(file), file.read_bytes(), random.Random(0)
    places = [draw.randrange(len(content)) for _ in range(50)] + draw.sample(structure(file), 250)
    flips = [(at, draw.randrange(8)) for at in places]
    flips += [(len(content) - back, bit) for back in range(1, 99) for bit in range(8)]  # the end of the archive
    noticed = 0
    for at, bit in flips:
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit
        broken.write_bytes(flipped)
        try:
            loaded = load_checkpoint(broken)
        except UserError as error:
            noticed += str(broken) in str(error) and "\n" not in str(error)
        else:
            assert same(loaded, good), at
    assert noticed > 600


def heads(file: Path, *names: str) -> list[int]:
    """Places of the bytes that describe these parts, in front of them and in the directory at the end."""
    content, places = file.read_bytes(), []
    with zipfile.ZipFile(file) as archive:
        for part in (p for p in archive.infolist() if p.filename.endswith(names)):
            entry = content.index(part.filename.encode(), archive.start_dir) - 46
            places += [*range(part.header_offset, part.header_offset + 30 + len(part.filename))]
            places += [*range(entry, entry + 46 + len(part.filename))]
    return places


@pytest.mark.slow
def test_no_bit_that_describes_a_part_is_trusted(run_dir: Path, tmp_path: Path) -> None:
    """All of them: one makes of a part a directory, which torch does not read, and its tensor is what memory held."""
    file, broken = run_dir / "checkpoints" / "last.ckpt", tmp_path / "broken.ckpt"
    good, content, noticed = load_checkpoint(file), file.read_bytes(), 0
    for at in heads(file, "data.pkl", "data/3"):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            broken.write_bytes(flipped)
            try:
                loaded = load_checkpoint(broken)
            except UserError:
                noticed += 1
            else:
                assert same(loaded, good), (at, bit)
    assert noticed > 800


def test_a_file_cut_short_anywhere_is_noticed(run_dir: Path, tmp_path: Path) -> None:
    """From nothing at all to one byte too few."""
    content, cut = (run_dir / "checkpoints" / "last.ckpt").read_bytes(), tmp_path / "cut.ckpt"
    draw = random.Random(1)
    ends = [0, 1, 3, 4, 30, 63, 64, *(draw.randrange(len(content)) for _ in range(40))]
    for length in (*ends, *(len(content) - n for n in (1, 2, 21, 22, 23, 100, 4000))):
        cut.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"truncated|damaged"):
            load_checkpoint(cut)


def flip(file: Path) -> None:
    """Change one bit of a weight."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_resume_falls_back_to_the_newest_intact_checkpoint(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The damaged ones are named, and set aside, not deleted."""
    folder = copy / "checkpoints"
    for name in ("last.ckpt", "best.ckpt", "step_000006.ckpt"):
        flip(folder / name)
    assert main(["train", f"resume={copy}", "trainer.max_steps=7"]) == 0
    said = capsys.readouterr()
    for name in ("last.ckpt", "best.ckpt", "step_000006.ckpt"):
        assert f"skipped: {folder / name} is damaged" in said.out
        assert (copy / ".superseded" / "1" / name).is_file()
    assert "set aside" in said.err
    ended = result(copy)
    assert ended["steps"] == 7 and ended["resumed"][0]["step"] == 4


def test_a_run_without_an_intact_checkpoint_is_refused_whole(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And stays as it is."""
    for file in (copy / "checkpoints").iterdir():
        flip(file)
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    assert main(["train", f"resume={copy}", "trainer.max_steps=7"]) == 2
    said = capsys.readouterr().err
    assert "cannot be resumed" in said and "is damaged" in said
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("verb", ["evaluate", "sample", "export", "resume"])
def test_of_a_damaged_best_the_intact_last_is_named(
    verb: str, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is measured is never another checkpoint than one thinks: it is for the user to choose."""
    best = copy / "checkpoints" / "best.ckpt"
    flip(best)
    calls = {
        "evaluate": ["evaluate", str(copy)],
        "sample": ["sample", str(copy), "prompt=a", "max_new_tokens=2"],
        "export": ["export", str(copy), str(tmp_path / "hub")],
        "resume": ["train", f"resume={best}"],
    }
    assert main(calls[verb]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and len(said.strip().splitlines()) == 1
    named = "step_000006.ckpt" if verb == "resume" else "last.ckpt"
    assert "is damaged" in said and str(copy / "checkpoints" / named) in said
    if verb != "resume":
        assert main([word.replace(str(copy), str(copy / "checkpoints" / "last.ckpt"), 1) for word in calls[verb]]) == 0


def test_a_checkpoint_of_before_is_gone_on_from(copy: Path) -> None:
    """One that does not say of how many ranks it was, of a config without the later settings."""
    for file in (copy / "checkpoints").iterdir():
        payload = torch.load(file, weights_only=True)
        del payload["run"]["ranks"]
        del payload["run"]["config"]["force"], payload["run"]["config"]["trainer"]["skip_nonfinite"]
        torch.save(payload, file)
    config = copy / ".hydra" / "config.yaml"
    kept = [line for line in config.read_text().splitlines() if not line.strip().startswith(("force:", "skip_nonf"))]
    config.write_text("\n".join(kept) + "\n")
    assert main(["train", f"resume={copy}", "trainer.max_steps=7"]) == 0
    assert main(["train", f"resume={copy}", "trainer.max_steps=8", "trainer.skip_nonfinite=1"]) == 0
    assert main(["train", f"resume={copy}", "trainer.max_steps=9"]) == 0
    assert "skip_nonfinite: 1" in config.read_text() and result(copy)["steps"] == 9
