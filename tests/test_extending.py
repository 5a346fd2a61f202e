"""What docs/extending.md shows, copied from it: its files, and its commands."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from s15erav3.__main__ import main
from tests.balancing.runs import COMMON, STEPS
from tests.docs import ROOT, commands_of, files, sections
from tests.tiny import DATA, RUN, TINY, result, rows

SECTIONS = sections((ROOT / "docs" / "extending.md").read_text())
STRATEGY, MODEL, OPTIMIZER, DATA_SET, LOGGER, CALLBACK = SECTIONS


def test_every_section_is_whole() -> None:
    """Files to be copied and a command to be run; about twenty lines are enough for a strategy."""
    for name, text in SECTIONS.items():
        assert files(text), name
        assert len(list(commands_of(text, name))) == 1, name
    shown = files(SECTIONS[STRATEGY])
    assert set(shown) == {"mine.py", "my_conf/balancing/rescue.yaml"}
    assert len(shown["mine.py"].splitlines()) <= 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("mine", "my_")):
            del sys.modules[name]


def copied(section: str, place: Path) -> list[str]:
    """Write a section's files; returns the words of its command, without the program."""
    for name, text in files(SECTIONS[section]).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (command,) = commands_of(SECTIONS[section], section)
    return command.words[1:]


@pytest.fixture
def own_package(place: Path) -> Path:
    """The folder with the strategy's files, for other tests too."""
    copied(STRATEGY, place)
    return place


def trained(section: str, place: Path, *more: str) -> Path:
    """The folder of a short run of the section's command."""
    words = copied(section, place)
    run = place / "run"
    assert main([*words, *DATA, *RUN, "trainer.max_steps=3", "hydra.run.dir=run", *more]) == 0
    assert result(run)["status"] == "completed"
    return run


def test_a_strategy_trains_combines_and_resumes(place: Path) -> None:
    """By ``hydra.searchpath`` and ``_target_``, with an add-on of this package beside it. Seen to fail with
    ``build_balancer`` that hands add-ons on to the strategy, and with one that leaves them out."""
    words, run_dir = copied(STRATEGY, place), place / "run"
    assert "balancing.z_loss=1e-3" in words
    assert main([*words, *TINY, *COMMON, "balancing.below=0.9", f"hydra.run.dir={run_dir}"]) == 0
    lines = rows(run_dir / "balance.jsonl")
    assert len(lines) == STEPS
    loads = torch.tensor([line["load"] for line in lines])
    low = loads < 0.9 * loads.double().mean(dim=-1, keepdim=True)
    assert low.any() and not low.all()
    torch.testing.assert_close(torch.tensor([line["update"] for line in lines]), 0.01 * low.float())
    assert result(run_dir)["train/balance_loss"] > 0
    assert main(["train", f"resume={run_dir}", f"trainer.max_steps={STEPS + 1}", "trust=mine"]) == 0
    assert len(rows(run_dir / "balance.jsonl")) == STEPS + 1


@pytest.mark.slow
def test_a_model_size(place: Path) -> None:
    """Its numbers hold, and those that it leaves out are nano's."""
    run = trained(MODEL, place)
    model = OmegaConf.load(run / ".hydra" / "config.yaml").model
    assert (model.hidden_size, model.num_layers, model.intermediate_size) == (192, 6, 576)
    assert model.kv_lora_rank == OmegaConf.load(ROOT / "conf" / "model" / "nano.yaml").kv_lora_rank


@pytest.mark.slow
def test_an_optimizer(place: Path) -> None:
    """It is the one that steps: its momentum is in the checkpoint."""
    run = trained(OPTIMIZER, place)
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert {"momentum_buffer"} == {key for kept in state["state"].values() for key in kept}
    assert state["param_groups"][0]["initial_lr"] == 0.1


@pytest.mark.slow
def test_a_data_set(place: Path) -> None:
    """A text of one's own, by its name; relative to where the command is typed."""
    text = (ROOT / "s15erav3" / "data" / "sample" / "commentary.txt").read_text()
    (place / "letters.txt").write_text(text[:200_000])
    run = trained(DATA_SET, place)
    assert OmegaConf.load(run / ".hydra" / "config.yaml").data.max_epochs == 2
    assert result(run)["val/bpb"] > 0


@pytest.mark.slow
def test_a_logger(place: Path) -> None:
    """It gets what metrics.csv would."""
    run = trained(LOGGER, place)
    assert {"train/loss", "val/bpb", "balance/maxvio_batch"} <= {
        key for row in rows(run / "metrics.jsonl") for key in row
    }


@pytest.mark.slow
@pytest.mark.parametrize(("below", "steps"), [(100.0, 4), (0.0, 6)])
def test_a_callback(place: Path, below: float, steps: int) -> None:
    """It ends training at the first validation, of step 4, or not at all."""
    run = trained(CALLBACK, place, f"callbacks.until_even.below={below}", "trainer.max_steps=6")
    assert result(run)["steps"] == steps


@pytest.mark.slow
def test_a_strategy_is_typed_against_the_installed_package(place: Path) -> None:
    """``mypy --strict`` on it, where the package is installed from its wheel; without py.typed it would be an error."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "venv"], cwd=place, check=True)
    (site,) = (place / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(next(place.glob("*.whl"))) as archive:
        archive.extractall(site)
    (site / "others.pth").write_text(f"{Path(torch.__file__).parent.parent}\n")
    copied(STRATEGY, place)

    def checked() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", "venv/bin/python", "mine.py"]
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
        return subprocess.run(command, cwd=place, env=clean, capture_output=True, text=True)

    found = checked()
    assert found.returncode == 0, found.stdout
    source = (place / "mine.py").read_text()
    (place / "mine.py").write_text(source.replace("progress: float) -> Tensor", "progress: str) -> Tensor"))
    assert "incompatible with supertype" in checked().stdout
    (place / "mine.py").write_text(source)
    (site / "s15erav3" / "py.typed").unlink()
    assert "py.typed" in checked().stdout
