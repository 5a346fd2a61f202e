"""Trackio, Hugging Face's local tracker: a run in its database on this machine."""

from __future__ import annotations

import secrets
from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from s15erav3.cli.overrides import leaves
from s15erav3.errors import UserError, one_line
from s15erav3.loggers.extras import need
from s15erav3.loggers.raster import pixels
from s15erav3.runs import naming
from s15erav3.runs.records import logs_again

NOTE = "trackio/run-name.txt"
"""File with the run's name, within the run's folder."""


class RunTrackio(Logger):
    """One Trackio run, with scalars, heatmaps, histograms, samples and the flattened settings.

    It is stored where Trackio keeps its runs, below ``TRACKIO_DIR``. ``TRACKIO_SPACE_ID`` and ``TRACKIO_SERVER_URL``
    are the library's own ways to send it elsewhere, and no config can set them. A resumed run continues its Trackio
    run, and values that are already there are not logged again. Rows are on disk half a second after they are logged.

    Args:
        save_dir: the run's folder, in which ``trackio/run-name.txt`` stores the run's name.
        project: Trackio's project.
        group: as in ``trackio.init``.
        name: ``None`` builds one from the settings that distinguish this run from others. A few letters are added to
            make it unique, as Trackio identifies a run by its name.

    Raises:
        UserError: Trackio is not installed.
    """

    def __init__(
        self, save_dir: str, project: str = "s15erav3", group: str | None = None, name: str | None = None
    ) -> None:
        super().__init__()
        need("trackio", "trackio")
        self.folder, self.project, self.group, self._wanted = Path(save_dir), project, group, name
        self._run: Any = None
        self._config: dict[str, Any] = {}
        self._known: dict[int, set[str]] = {}

    @property
    def name(self) -> str:
        """The project."""
        return self.project

    @property
    def version(self) -> str:
        """The run's name; empty before it has started."""
        return "" if self._run is None else str(self._run.name)

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run; first access starts or resumes it.

        Raises:
            UserError: Trackio refuses the project.
        """
        if self._run is None:
            import trackio

            note = self.folder / NOTE
            name = note.read_text().strip() if note.exists() else self._new_name()
            try:
                with redirect_stdout(StringIO()):  # it prints how to start its dashboard
                    self._run = trackio.init(
                        self.project, name, group=self.group, config=self._config, resume="allow", embed=False
                    )
            except ValueError as error:
                raise UserError(f"logger=trackio cannot start: {one_line(error)}") from error
            note.parent.mkdir(exist_ok=True)
            note.write_text(name + "\n")
            if logs_again(self.folder):
                self._known = _known(self.project, self._run)
        return self._run

    def _new_name(self) -> str:
        told = self._wanted or naming.run_name(self.folder, naming.choices(self.folder)) or self.folder.name
        return f"{told} {secrets.token_hex(2)}"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log the settings, flattened as on the command line."""
        self._config |= dict(leaves(vars(params) if isinstance(params, Namespace) else params))
        _ = self.experiment  # the settings are passed when the run starts

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values of a step, without those that Trackio already has for it."""
        known = self._known.get(step or 0, set()) if self.experiment else set()
        new = {name: value for name, value in metrics.items() if name not in known}
        if new:
            self.experiment.log(new, step=step)

    @rank_zero_only
    def log_media(self, figures: Mapping[str, Any], histograms: Mapping[str, Sequence[float]], step: int) -> None:
        """Log heatmaps as images and values as histograms, under ``media/``."""
        import trackio

        images = {f"media/{name}": trackio.Image(pixels(figure)) for name, figure in figures.items()}
        bars = {f"media/{name}": trackio.Histogram(values, num_bins=32) for name, values in histograms.items()}
        self.log_metrics(images | bars, step)

    @rank_zero_only
    def log_samples(self, samples: Sequence[Mapping[str, Any]], step: int) -> None:
        """Log texts ``{"prompt", "text"}`` as a table ``media/samples``."""
        import trackio

        columns = ["prompt", "text"]
        rows = [[sample[column] for column in columns] for sample in samples]
        self.log_metrics({"media/samples": trackio.Table(columns=columns, data=rows)}, step)

    @rank_zero_only
    def conclude(self, exit_code: int, result: Mapping[str, Any]) -> None:
        """Flush pending rows, and release the run, so that the next one in this process is a new run."""
        if self._run is not None:
            import trackio

            with redirect_stdout(StringIO()):
                trackio.finish()  # type: ignore[no-untyped-call]


def _known(project: str, run: Any) -> dict[int, set[str]]:
    """Return the names that Trackio has for each step, from the database on this machine."""
    from trackio.sqlite_storage import SQLiteStorage

    found: dict[int, set[str]] = defaultdict(set)
    for row in SQLiteStorage.get_logs(project, run=run.name, run_id=run.id):
        found[int(row["step"])].update(row.keys() - {"step", "timestamp"})
    return found
