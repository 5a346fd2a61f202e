"""Mistakes with ``export``, ``init_from`` and Hugging Face folders: one sentence, status 2, nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from s15erav3.__main__ import main
from tests.tiny import train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run."""
    folder = tmp_path_factory.mktemp("bad_folder") / "run"
    assert train("trainer.max_steps=2", run_dir=folder) == 0
    return folder


@pytest.fixture(scope="module")
def hub_folder(run_dir: Path) -> Path:
    """What ``export`` makes of the finished run."""
    folder = run_dir.parent / "model"
    assert main(["export", str(run_dir), str(folder)]) == 0
    return folder


def alone(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """A refusal that is all that is said."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert not said.out and len(said.err.strip().splitlines()) == 1
    assert said.err.startswith("error: ") and "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(
    "setting", ["model=small", "model.num_layers=3", "experts=e16", "tokenizer=gpt2", "experiment=original"]
)
def test_what_init_from_decides_cannot_be_set(
    setting: str, hub_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting without a say would be believed to have one; the folder of weights decides, or the run."""
    for place in (hub_folder, hub_folder.parent / "run"):
        run = tmp_path / "run"
        said = alone(capsys, "train", f"init_from={place}", setting, f"hydra.run.dir={run}", "trainer.max_steps=1")
        assert setting in said and str(place) in said and "leave it out" in said
        assert not run.exists()


def test_a_resumed_run_does_not_begin_elsewhere(hub_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would go on with its own weights and write down that it had begun with others."""
    run = hub_folder.parent / "run"
    before = (run / ".hydra" / "config.yaml").read_bytes()
    assert "init_from has no effect" in alone(capsys, "train", f"resume={run}", f"init_from={hub_folder}")
    assert (run / ".hydra" / "config.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_place_to_begin_with_that_is_none_is_told(
    hub_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Absent, of another architecture, or cut short: by every verb that takes one, and nothing is left behind."""
    foreign, cut = (shutil.copytree(hub_folder, tmp_path / name) for name in ("foreign", "cut"))
    config = (foreign / "config.json").read_text()
    (foreign / "config.json").write_text(config.replace('"deepseek_v3"', '"llama"'))
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-5000])
    before = sorted(tmp_path.rglob("*"))
    for place, words in (
        (tmp_path / "nowhere", ["does not exist"]),
        (foreign, ["config.json", "model_type=llama"]),
        (cut, ["model.safetensors", "damaged"]),
    ):
        for call in (
            ["train", f"init_from={place}", f"hydra.run.dir={tmp_path / 'run'}", "trainer.max_steps=1"],
            ["export", str(place), str(tmp_path / "new")],
            ["sample", str(place)],
            ["evaluate", str(place)],
        ):
            said = alone(capsys, *call)
            assert all(word in said for word in [str(place), *words]), said
    assert sorted(tmp_path.rglob("*")) == before


def test_export_is_told_what_and_where(hub_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written over, and a bad setting leaves no folder."""
    before = {file: file.read_bytes() for file in hub_folder.iterdir()}
    run, new = str(hub_folder.parent / "run"), str(tmp_path / "new")
    assert "needs a checkpoint" in alone(capsys, "export")
    assert "output" in alone(capsys, "export", run)
    assert "output" in alone(capsys, "export", run, "dtype=bfloat16")
    assert "already exists" in alone(capsys, "export", run, str(hub_folder))
    assert "dtype=int8" in alone(capsys, "export", run, new, "dtype=int8")
    assert "max_shard_size=big" in alone(capsys, "export", run, new, "max_shard_size=big")
    assert "shard_size" in alone(capsys, "export", run, new, "shard_size=1GB")
    assert {file: file.read_bytes() for file in hub_folder.iterdir()} == before
    assert not list(tmp_path.iterdir())


def test_a_folder_has_no_text_of_its_own(hub_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor has it blocks to speculate with, if the run had none."""
    for settings in ([], ["split=test"], ["split=all"]):
        assert "data.path=FILE" in alone(capsys, "evaluate", str(hub_folder), *settings)
    said = alone(capsys, "sample", str(hub_folder), "speculative=true", "temperature=0")
    assert "num_nextn_predict_layers" in said and str(hub_folder) in said
