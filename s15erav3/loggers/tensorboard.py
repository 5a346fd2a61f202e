"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from s15erav3.cli.overrides import leaves
from s15erav3.loggers.extras import need
from s15erav3.loggers.raster import markdown, pixels
from s15erav3.runs.records import read_resumes

RESULTS = ("val/bpb", "balance/maxvio_global")
"""Metrics shown beside the settings in TensorBoard's HPARAMS tab."""


class RunTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger in the run's ``tensorboard/``, with heatmaps, samples and settings.

    A resumed run marks its earlier events from the resumed step on as void, and writes those steps again: TensorBoard's
    reader then shows each step once. Events are on disk after ``flush_secs``, and before each checkpoint.

    Args:
        save_dir: the run's folder.
        flush_secs: maximum delay in seconds until logged values are on disk.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, save_dir: str, flush_secs: int = 10) -> None:
        need("tensorboard", "tensorboard")
        resumes = read_resumes(Path(save_dir))
        void: dict[str, Any] = {"purge_step": int(resumes[-1]["step"]) + 1} if resumes else {}
        super().__init__(save_dir, name="", version="tensorboard", flush_secs=flush_secs, **void)
        self._closed = False

    @property
    def log_dir(self) -> str:
        """``tensorboard/`` in the run's folder; Lightning would expand a ``$`` in its name as a variable."""
        return os.path.join(self.save_dir, "tensorboard")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log the settings, flattened as on the command line, to the HPARAMS tab and ``hparams.yaml``."""
        from torch.utils.tensorboard.summary import hparams

        nested = vars(params) if isinstance(params, Namespace) else params
        self.hparams.update(nested)
        flat = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in leaves(nested)}
        experiment, begin, end = hparams(  # type: ignore[no-untyped-call]
            flat,
            dict.fromkeys(RESULTS, 0.0),  # only the names of metrics; no value is logged
        )
        self._end = end
        for summary in (experiment, begin):
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def log_media(self, figures: Mapping[str, Any], histograms: Mapping[str, Sequence[float]], step: int) -> None:
        """Log heatmaps as images and values as histograms, under ``media/``."""
        for name, figure in figures.items():
            self.experiment.add_image(f"media/{name}", pixels(figure), step, dataformats="HWC")
        for name, values in histograms.items():
            self.experiment.add_histogram(f"media/{name}", np.asarray(values), step)

    @rank_zero_only
    def log_samples(self, samples: Sequence[Mapping[str, Any]], step: int) -> None:
        """Log texts ``{"prompt", "text"}`` to the TEXT tab, as ``media/samples``."""
        self.experiment.add_text("media/samples", markdown(samples), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush pending events, and close the file."""
        self.conclude(int(status != "success"), {})

    @rank_zero_only
    def conclude(self, exit_code: int, result: Mapping[str, Any]) -> None:
        """Close once only: the library's writer opens a new file if it is used after closing."""
        if self._closed or self._experiment is None:
            return
        self._closed = True
        if exit_code == 0:
            self.experiment._get_file_writer().add_summary(self._end)
        super().finalize("success")
