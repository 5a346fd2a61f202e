"""Places and texts of any name go through the verbs; every way to ask for a resumption resumes, or is refused."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from s15erav3.__main__ import main
from tests.tiny import RUN, TINY, result, train

ODD = ["runs $x {a} [b] ,=' \"", "run ${x}", "\\${seed}", "[a]", "'b'", "${now:%Y}"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a text of its own."""
    folder = tmp_path_factory.mktemp("literal")
    text = folder / "a ${text}, [of] 'mine'.txt"
    text.write_text("\n\n".join(f"Paragraph {i} is about the number {i % 7}, and no other." for i in range(400)))
    settings = ["data=text", f"data.path={text}", "data.vocab_size=280", "trainer.max_steps=2"]
    assert train(*settings, run_dir=folder / "run") == 0
    return folder / "run"


@pytest.mark.parametrize("name", ODD)
@pytest.mark.slow
def test_a_place_of_any_name_is_found_by_every_verb(
    name: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To resume, sample from, measure, export, report and compare, and to write to."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_dir, name)
    assert main(["train", f"resume={name}", "trainer.max_steps=3"]) == 0
    said = capsys.readouterr().err
    assert f"folder     {tmp_path / name}" in said and f"{shlex.quote(name)}: result.json" in said
    assert result(Path(name))["steps"] == 3 and (Path(name) / "checkpoints" / "last.ckpt").is_file()
    assert {json.loads(line)["step"] for line in (Path(name) / "samples.jsonl").read_text().splitlines()} == {2, 3}
    assert main(["sample", name, f"prompt={name}", "max_new_tokens=1"]) == 0
    assert capsys.readouterr().out.startswith(name)
    assert main(["evaluate", name, f"reference={name}", f"output={name}.json"]) == 0 and Path(f"{name}.json").is_file()
    assert f"{name}.json" in "".join(capsys.readouterr().err.splitlines())
    assert main(["export", name, f"out{name}"]) == 0 and Path(f"out{name}", "config.json").is_file()
    assert main(["report", name, "max_tokens=64", f"output={name}.html"]) == 0
    assert main(["compare", name, "output=."]) == 0
    capsys.readouterr()
    assert main(["train", *RUN, f"init_from={name}", "data=text", f"data.path={name}.txt"]) == 2  # which is not there
    assert f"{name}.txt does not exist" in capsys.readouterr().err
    assert main(["train", *RUN, f"init_from={name}", "trainer.max_steps=1", "hydra.run.dir=further"]) == 0
    assert main(["train", "resume=further", "trainer.max_steps=2"]) == 0


@pytest.mark.slow
def test_a_new_run_takes_a_folder_that_hydra_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is; where Hydra can, its interpolations and quotes hold, as for anything else."""
    monkeypatch.chdir(tmp_path)
    short = [*TINY, "trainer.max_steps=1"]
    assert main(["train", *short, f"hydra.run.dir={ODD[0]}"]) == 0 and result(Path(ODD[0]))["steps"] == 1
    assert main(["train", *short, "hydra.run.dir=a-${seed}"]) == 0 and result(Path("a-1"))["steps"] == 1
    assert main(["train", *short, "hydra.run.dir='b ${seed}'"]) == 0 and result(Path("b 1"))["steps"] == 1
    assert main(["train", *short, "hydra.run.dir=c \\${x}"]) == 0 and result(Path("c ${x}"))["steps"] == 1
    assert main(["train", *short, "-m", "seed=1,2", f"hydra.sweep.dir={ODD[0]} s"]) == 0
    assert main(["train", f"sweep.resume={ODD[0]} s", "seed=1,2,3"]) == 0
    assert [result(Path(f"{ODD[0]} s", str(n)))["seed"] for n in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_run_is_resumed_however_it_is_asked_for(
    prefix: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No new run begins beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_dir, "run")
    assert main(["train", "trainer.max_steps=3", f"{prefix}resume=run"]) == 0
    assert result(Path("run"))["steps"] == 3 and [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
@pytest.mark.slow
def test_a_sweep_is_resumed_however_it_is_asked_for(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the settings that are given now."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *TINY, "trainer.max_steps=1", "seed=1", "sweep.name=s"]) == 0
    assert main(["train", f"{prefix}sweep.resume=multirun/s", "seed=1,2"]) == 0
    assert result(Path("multirun/s/1"))["seed"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["multirun"]


@pytest.mark.parametrize("setting", ["resume: run", "sweep:\n  resume: multirun/s"])
@pytest.mark.parametrize("multirun", [False, True])
def test_a_resumption_in_a_config_file_is_refused(
    setting: str, multirun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It used to begin a new training of the default settings."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\n{setting}\n")
    many = ["-m", "seed=1,2"] if multirun else []
    assert (
        main(["train", *TINY, "trainer.max_steps=1", *many, "--config-dir", "my", "experiment=mine", "hydra.run.dir=r"])
        == 2
    )
    said = capsys.readouterr().err
    assert "resume=" in said and "is set in a config file" in said and "Traceback" not in said
    assert not list(tmp_path.rglob("*.ckpt")) and not Path("r").exists()
