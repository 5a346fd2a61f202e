"""metrics.csv: a row for each logging call, preserved across interruptions."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from s15erav3.files import whole


class MetricsCSV(Logger):
    """Write ``metrics.csv`` into the run's folder.

    Lightning's own CSVLogger deletes an existing file of the run; this one continues it. Columns that appear later
    (validation) are added to the header by rewriting the file once.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.file = Path(save_dir) / "metrics.csv"
        self.columns: dict[str, None] = {}  # in the file's order; a list would take quadratic time for each row
        if self.file.exists():
            with self.file.open(newline="") as stream:
                self.columns = dict.fromkeys(next(csv.reader(stream), []))

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.file.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """Path of the file."""
        return self.file

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config is in ``.hydra/``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row."""
        row = {"step": step, **{k: v for k, v in metrics.items() if k != "epoch"}}
        new = [key for key in row if key not in self.columns]
        if new:
            self._add_columns(new)
        with self.file.open("a", newline="") as stream:
            csv.writer(stream).writerow([row.get(column) for column in self.columns])

    def _add_columns(self, new: list[str]) -> None:
        rows: list[dict[str, str]] = []
        if self.file.exists():
            with self.file.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
        self.columns |= dict.fromkeys(new)
        with whole(self.file) as stream:
            writer = csv.DictWriter(stream, list(self.columns))
            writer.writeheader()
            writer.writerows(rows)
