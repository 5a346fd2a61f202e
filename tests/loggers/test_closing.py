"""How loggers are closed, what is said of a missing library, and what an MLflow that fails does to training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from s15erav3.figures.style import DIVERGING, template
from s15erav3.loggers import closing, extras
from s15erav3.loggers.raster import markdown, pixels
from tests.test_bad_input import refusal
from tests.tiny import TINY, result, train


class Book:
    """Remembers that it was closed; ``wrong`` fails at it."""

    def __init__(self, name: str, log: list[Any], wrong: bool = False) -> None:
        self.name, self.log, self.wrong = name, log, wrong

    def conclude(self, exit_code: int, result: Any) -> None:
        self.log.append((self.name, exit_code, result))
        if self.wrong:
            raise OSError("no\nplace")


def test_all_are_closed_in_order_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    """One that fails must not keep the next one open: the next run of this process would write into it."""
    log: list[Any] = []
    for book in (Book("a", log), Book("b", log, wrong=True), object(), Book("c", log)):
        closing.opened(book)
    closing.close_all(3, {"status": "failed"})
    closing.close_all(0)
    assert log == [(name, 3, {"status": "failed"}) for name in "abc"]
    assert capsys.readouterr().err == "Book was not closed: OSError: no place\n"


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "trackio"])
def test_a_missing_library_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that installs it; and nothing of the run is left behind."""
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    said = refusal(capsys, "train", *TINY, f"logger=[csv,{name}]", f"hydra.run.dir={tmp_path / 'run'}")
    assert f"logger={name} needs" in said and f"pip install 's15erav3[{name}]'" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("choice", ["[csv,tensorbord]", "tensorbord"])
def test_an_unknown_logger_in_a_list_is_named(choice: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As one that stands alone."""
    said = refusal(capsys, "train", *TINY, f"logger={choice}")
    assert "logger=tensorbord is not a choice of the group 'logger'" in said and "tensorboard" in said


def test_an_empty_list_logs_nowhere(tmp_path: Path) -> None:
    """The same as logger=none."""
    assert train("logger=[]", "trainer.max_steps=2", run_dir=tmp_path / "run") == 0
    assert result(tmp_path / "run")["status"] == "completed" and not (tmp_path / "run" / "metrics.csv").exists()


def test_pixels_are_the_figures_colours() -> None:
    """Ends, middle, beyond an end, nothing: by the scale's own hexadecimal colours. Catches rows that stand upside
    down, and cells that are mixed."""
    figure = go.Figure(layout={"template": template(), "coloraxis": {"cmin": -2, "cmid": 0, "cmax": 2}})
    figure.add_heatmap(z=[[-2, 0, 2], [9, None, -9]], coloraxis="coloraxis")
    image = pixels(figure)
    assert image.shape == (32, 48, 3) and image.dtype == np.uint8
    low, middle, high = (bytes.fromhex(DIVERGING[at][1].lstrip("#")) for at in (0, 2, 4))
    grey = bytes([128] * 3)
    for y, row in enumerate([[low, middle, high], [high, grey, low]]):
        for x, colour in enumerate(row):
            cell = image[16 * y : 16 * y + 16, 16 * x : 16 * x + 16].reshape(-1, 3)
            assert {bytes(pixel.tolist()) for pixel in cell} == {colour}


def test_samples_show_as_they_are_written() -> None:
    """Marks of Markdown in what a model writes must not become headings, links or emphasis."""
    told = markdown([{"prompt": "", "text": " # 1_2*\n[a](b)"}, {"prompt": "x", "text": "y"}])
    assert told == "**(no prompt)**\n\n\\# 1\\_2\\*  \n\\[a\\](b)\n\n---\n\n**x**\n\ny"
