"""metrics.csv."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from s15erav3.loggers.csv import MetricsCSV
from s15erav3.runs.rewind import rewind


def table(folder: Path) -> list[dict[str, str]]:
    """The file's rows."""
    with (folder / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_columns_that_come_later_are_added_to_earlier_rows(tmp_path: Path) -> None:
    """Validation metrics appear after the first rows were written."""
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"train/loss": 2.0}, 1)
    logger.log_metrics({"val/bpb": 1.5, "epoch": 0}, 1)
    logger.log_metrics({"train/loss": 1.0}, 2)
    assert table(tmp_path) == [
        {"step": "1", "train/loss": "2.0", "val/bpb": ""},
        {"step": "1", "train/loss": "", "val/bpb": "1.5"},
        {"step": "2", "train/loss": "1.0", "val/bpb": ""},
    ]


def test_a_second_logger_goes_on_with_the_file(tmp_path: Path) -> None:
    """Lightning's own logger would delete it; a resumed run must not."""
    MetricsCSV(str(tmp_path)).log_metrics({"a": 1.0}, 1)
    MetricsCSV(str(tmp_path)).log_metrics({"b": 2.0}, 2)
    assert [row["step"] for row in table(tmp_path)] == ["1", "2"]


def test_rewind_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """Steps that will be trained again, and a line that a kill cut short, are not kept twice."""
    logger = MetricsCSV(str(tmp_path))
    for step in (1, 2, 3):
        logger.log_metrics({"a": float(step)}, step)
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("3,")
    (tmp_path / "balance.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    rewind(tmp_path, 2)
    assert [row["step"] for row in table(tmp_path)] == ["1", "2"]
    assert (tmp_path / "balance.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_the_time_of_a_row_grows_with_its_columns_and_not_with_their_square(tmp_path: Path) -> None:
    """Wide layers, every expert: with a search through a list, a row of 4,000 columns took 70 ms."""

    def took(columns: int) -> float:
        logger = MetricsCSV(str(tmp_path / str(columns)))
        row = {f"load_L01/E{expert:04d}": 1.0 for expert in range(columns)}
        logger.file.parent.mkdir()
        times = []
        for step in range(6):
            began = time.thread_time()
            logger.log_metrics(row, step)
            times.append(time.thread_time() - began)
        return min(times[1:])  # the first one writes the header

    assert took(4000) < 40 * took(200)
