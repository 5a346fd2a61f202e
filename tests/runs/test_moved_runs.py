"""A run is where its folder is: copied, it is another run; moved, it goes on; links out of it are not followed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from s15erav3.__main__ import main
from tests.test_resume import assert_same_run
from tests.tiny import TINY, few, result, train


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps whose folder stood on the command line, as run_dir."""
    folder = tmp_path_factory.mktemp("moved") / "A"
    settings = ["trainer.max_steps=4", "seed=2", f"run_dir={folder}", f"hydra.run.dir={folder}"]
    assert main(["train", *TINY, *settings]) == 0
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_copied_run_is_its_own_and_a_moved_one_goes_on(original: Path, tmp_path: Path) -> None:
    """Nothing of the copy is written where the original lies, and what was changed is recorded. Both end alike.

    Seen to fail when the saved config's folders hold.
    """
    a, b = (Path(shutil.copytree(original, tmp_path / name)) for name in ("A", "B"))
    before = content(original), content(a)
    assert main(["train", f"resume={b}", "trainer.max_steps=6", "optimizer.lr=0.001"]) == 0
    assert (content(original), content(a)) == before
    assert result(b)["steps"] == 6 and result(b)["best/val/bpb"] < result(a)["best/val/bpb"]
    assert result(b)["resumed"] == [{"step": 4, "run_dir": str(b), "changed": {"optimizer.lr": [0.004, 0.001]}}]
    overrides = yaml.safe_load((b / ".hydra" / "overrides.yaml").read_text())
    assert {"seed=2", "trainer.max_steps=6", "optimizer.lr=0.001"} <= set(overrides)
    assert not [line for line in overrides if line.startswith(("run_dir", "trainer.max_steps=4"))]
    assert str(original) not in (b / ".hydra" / "config.yaml").read_text()

    c = a.rename(tmp_path / "C")
    assert main(["train", f"resume={c}", "trainer.max_steps=6", "optimizer.lr=0.001"]) == 0
    assert not a.exists() and content(original) == before[0]
    assert_same_run(b, c)


def test_the_best_score_is_remembered_after_a_move(original: Path, tmp_path: Path) -> None:
    """Lightning alone would let the first validation after the move overwrite best.ckpt, however bad."""
    moved = Path(shutil.copytree(original, tmp_path / "moved"))
    best = (moved / "checkpoints" / "best.ckpt").read_bytes()
    ruin = ["optimizer.lr=5", "schedule.warmup_steps=0"]
    assert main(["train", f"resume={moved}", "trainer.max_steps=12", *ruin]) == 0
    ended = result(moved)
    assert ended["best/val/bpb"] < ended["val/bpb"]
    assert (moved / "checkpoints" / "best.ckpt").read_bytes() == best


def test_a_checkpoint_names_no_file_to_delete(original: Path, tmp_path: Path) -> None:
    """Lightning deletes the best checkpoint of before, whose path stands in the file."""
    run = Path(shutil.copytree(original, tmp_path / "run"))
    kept = tmp_path / "kept.ckpt"
    kept.write_text("kept")
    for file in (run / "checkpoints").iterdir():
        payload = torch.load(file, weights_only=True)
        (key,) = (key for key in payload["callbacks"] if key.startswith("ModelCheckpoint"))
        state, name = payload["callbacks"][key], str(run / "checkpoints" / ".." / ".." / kept.name)
        score = state["best_model_score"]
        state |= {"dirpath": str(run / "checkpoints"), "best_model_path": name, "kth_best_model_path": name}
        state |= {"best_k_models": {name: score}}
        torch.save(payload, file)
    assert main(["train", f"resume={run}", "trainer.max_steps=8"]) == 0
    assert kept.read_text() == "kept"


LINKS = [
    *("checkpoints/last.ckpt", "metrics.csv", "balance.jsonl", "samples.jsonl", "result.json", "progress.json"),
    *(".result.json.1.partial", "checkpoints/.last.ckpt.1.partial", ".hydra/config.yaml", ".hydra/resumed.json"),
    *(".hydra/lock", "checkpoints", ".hydra", ".superseded"),
]


@pytest.mark.parametrize("name", few(LINKS, "checkpoints/last.ckpt", "metrics.csv", ".result.json.1.partial", ".hydra"))
def test_a_link_out_of_the_folder_is_refused(
    name: str, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would be written through it lies elsewhere; nothing is written at all."""
    run, outside = Path(shutil.copytree(original, tmp_path / "run")), tmp_path / "outside"
    place = run / name
    if place.exists():
        place.rename(outside)
    else:
        outside.write_text("kept")
    place.symlink_to(outside)
    before = content(tmp_path)
    assert main(["train", f"resume={run}", "trainer.max_steps=6"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "link" in line and str(place) in line
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", [".hydra", "checkpoints", "metrics.csv", ".hydra/lock", "balance.jsonl"])
def test_a_new_run_writes_through_no_link(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that was prepared for it may hold one."""
    run, outside = tmp_path / "run", tmp_path / "outside"
    (run / name).parent.mkdir(parents=True)
    outside.mkdir()
    target = outside if name in (".hydra", "checkpoints") else outside / "file"
    if target != outside:
        target.write_text("")
    (run / name).symlink_to(target)
    before = content(tmp_path)
    assert train("trainer.max_steps=2", run_dir=run) == 2
    assert str(run) in capsys.readouterr().err
    assert content(tmp_path) == before
