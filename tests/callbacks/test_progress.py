"""The progress line in terminals of several widths, by itself and in a real run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

import s15erav3
from s15erav3.callbacks.progress import Line, drawn, fitting
from tests.terminal import Terminal, program
from tests.tiny import TINY, result, train

KNOWN = {
    "train/loss": 2.0851,
    "train/bpb": 0.8321,
    "val/bpb": 0.84031,
    "balance/maxvio_batch": 0.214,
    "balance/maxvio_global": 0.131,
    "perf/tokens_per_second": 8832.4,
    "perf/mfu": 0.5,
}


@pytest.mark.parametrize(
    ("room", "shown"),
    [
        (None, "loss 2.085  bpb 0.832  val bpb 0.8403  MaxVio 0.21  global 0.13  tokens/s 8,832"),
        (82, "loss 2.085  bpb 0.832  val bpb 0.8403  MaxVio 0.21  global 0.13  tokens/s 8,832"),
        (78, "loss 2.085  bpb 0.832  val bpb 0.8403  MaxVio 0.21  tokens/s 8,832"),
        (55, "loss 2.085  val bpb 0.8403  MaxVio 0.21  tokens/s 8,832"),
        (54, "loss 2.085  val bpb 0.8403  MaxVio 0.21"),
        (26, "loss 2.085  val bpb 0.8403"),
        (10, "loss 2.085"),
        (9, ""),
    ],
)
def test_the_most_wanted_figures_come_first(room: int | None, shown: str) -> None:
    """Written down by hand; nothing is cut."""
    assert fitting(KNOWN, room) == shown and (room is None or len(shown) <= room)


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 120, 200])
def test_step_and_time_left_are_always_there(width: int) -> None:
    """In one line, the bar from 32 columns on."""
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    bar = Line(console=console)
    bar.add_task("", total=2000, completed=1234, known=KNOWN)
    console.print(drawn(bar.tasks[0], width))
    (line,) = console.export_text().splitlines()
    assert line.startswith("step 1234/2000 ") and "-:--:--" in line and len(line) <= width
    assert ("━" in line) == (width >= 40) and ("val bpb 0.8403" in line) == (width >= 60)
    assert ("tokens/s" in line) == (width >= 100)


@pytest.mark.slow
def test_a_run_at_80_columns(tmp_path: Path) -> None:
    """The last validation is what the bar shows at the end; nothing goes on in a second line; W&B's run is told of at
    the beginning and at the end."""
    settings = ["trainer.max_steps=8", "logger=both", "callbacks.telemetry.every_n_steps=1", "hydra.run.dir=run"]
    package = str(Path(s15erav3.__file__).parent.parent)
    with Terminal(
        program("train", *TINY, *settings), 80, cwd=tmp_path, PYTHONPATH=package, WANDB_MODE="offline"
    ) as terminal:
        lines = terminal.end().splitlines()
    assert terminal.status == 0, lines
    validations = [line for line in lines if line.startswith("step ") and "val bpb" in line and "━" not in line]
    assert [line.split()[1] for line in validations] == ["4/8", "8/8"]
    (bar,) = [line for line in lines if "━" in line]
    last = f"val bpb {result(tmp_path / 'run')['val/bpb']:.4f}"
    assert bar.startswith("step 8/8 ━━━━━━━━━━ 0:00:00 loss ") and last in bar and last in validations[-1]
    assert last not in validations[0]
    for line in lines:
        assert not line.endswith("…") and (line.startswith((" ", "step ", "s15erav3 ")) or line[:11].strip())
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    for command in ("wandb leet run/wandb", f"wandb sync run/wandb/{folder.name}"):
        assert lines.count(f"  {command}") == 2
    assert sum(line.startswith("W&B        offline, in run/wandb/") for line in lines) == 1
    assert sum(line.startswith("W&B      offline, in run/wandb/") for line in lines) == 1


def test_a_file_gets_no_blanks_at_the_ends_of_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor control sequences; and a line at each validation with all figures."""
    assert train("trainer.max_steps=2", "logger=none", run_dir=tmp_path / "run") == 0
    lines = capsys.readouterr().err.split("\n")
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)
    (told,) = [line for line in lines if line.startswith("step")]
    assert all(name in told for name in ("loss", " bpb", "val bpb", "MaxVio", "global", "tokens/s"))
    assert "model" in lines[1] and "balancing  LossFree" in lines
