"""metrics.csv: a row for each logging call, kept through interruptions."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from s15erav3.files import whole
from s15erav3.metrics.renamed import present_name, present_names


class MetricsCSV(Logger):
    """Write ``metrics.csv`` into the run's folder.

    Lightning's own CSVLogger deletes the file of a run that it finds; this one goes on with it. Columns
    that appear later (validation) are added to the header by rewriting the file once, and so is a column
    called anew that an older version began under its former name.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.file = Path(save_dir) / "metrics.csv"
        self.columns: list[str] = []
        """Today's names of the metrics, in the order of the file."""
        self._former = False
        if self.file.exists():
            with self.file.open(newline="") as stream:
                header = next(csv.reader(stream), [])
            self.columns = list(dict.fromkeys(map(present_name, header)))
            self._former = self.columns != header

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
        """The file."""
        return self.file

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The config stands in ``.hydra/``; nothing to do."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row."""
        row = {"step": step, **{k: v for k, v in metrics.items() if k != "epoch"}}
        new = [key for key in row if key not in self.columns]
        if new or self._former:
            self._add_columns(new)
        with self.file.open("a", newline="") as stream:
            csv.DictWriter(stream, self.columns).writerow(row)

    def _add_columns(self, new: list[str]) -> None:
        rows: list[dict[str, str]] = []
        if self.file.exists():
            with self.file.open(newline="") as stream:
                rows = [present_names(row) for row in csv.DictReader(stream)]
        self.columns += new
        self._former = False
        with whole(self.file) as stream:
            writer = csv.DictWriter(stream, self.columns)
            writer.writeheader()
            writer.writerows(rows)
