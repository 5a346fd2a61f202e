"""MLflow: a run in the local database, or on the server set by ``MLFLOW_TRACKING_URI``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from s15erav3.cli.overrides import leaves
from s15erav3.errors import UserError, one_line
from s15erav3.loggers.extras import need
from s15erav3.loggers.mlflow_run import begin, images_known, place, steps_known
from s15erav3.loggers.raster import markdown, pixels
from s15erav3.loggers.wandb_server import tell
from s15erav3.runs import naming
from s15erav3.runs.records import logs_again

STATUS = {"completed": "FINISHED", "interrupted": "KILLED"}
MOST_METRICS = 1000
"""Maximum number of metrics in one MLflow call."""


class RunMLflow(MLFlowLogger):
    """Lightning's MLFlowLogger for one MLflow run, with heatmaps, samples and the flattened settings as parameters.

    The database is MLflow's own default, ``mlflow.db`` in the working directory, or the one set by the environment
    variable ``MLFLOW_TRACKING_URI``; no config can set another. A resumed run continues its MLflow run, and steps that
    MLflow already has are not logged again. A server failure during training is reported once, and training continues.

    Args:
        save_dir: the run's folder, in which ``mlflow/run-id.txt`` stores the run's id.
        experiment: name of the MLflow experiment.
        name: name of the run; ``None`` builds one from the settings that distinguish this run from others.
        group: value of the tag ``group``, for finding the runs of a sweep.

    Raises:
        UserError: MLflow is not installed.
    """

    def __init__(
        self, save_dir: str, experiment: str = "s15erav3", name: str | None = None, group: str | None = None
    ) -> None:
        need("mlflow", "mlflow", "sqlalchemy", "alembic", "PIL")
        self.folder, self.group, self._lost = Path(save_dir), group, False
        self._skips = logs_again(self.folder)
        self._metrics: dict[str, set[int]] = {}
        self._images: set[tuple[str, int]] | None = None
        super().__init__(experiment_name=experiment, run_name=name, tracking_uri=place())

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.folder)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client; first access starts or resumes the run.

        Raises:
            UserError: MLflow refuses, or its server does not answer.
        """
        if not self._initialized:
            chosen = naming.choices(self.folder)
            name = self._run_name or naming.run_name(self.folder, chosen)
            tags = chosen | ({"group": self.group} if self.group else {})
            self._run_id, self._experiment_id = begin(
                self._mlflow_client, self.folder, self._experiment_name, name, tags
            )
            self._initialized = True
        return self._mlflow_client

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the settings, flattened as on the command line.

        MLflow's parameters cannot change: settings that a resumed run changes become tags ``changed/KEY``.
        """
        nested = vars(params) if isinstance(params, Namespace) else params
        flat = {key: str(value)[:250] for key, value in leaves(nested)}
        before = self.experiment.get_run(self.run_id).data.params
        MLFlowLogger.log_hyperparams(self, {key: value for key, value in flat.items() if key not in before})
        for key in sorted(key for key in flat.keys() & before.keys() if flat[key] != before[key]):
            self.experiment.set_tag(self.run_id, f"changed/{key}", flat[key])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars of a step, without those that MLflow already has for it."""

        def work() -> None:
            new = [(name, value) for name, value in metrics.items() if not self._has(name, step or 0)]
            for at in range(0, len(new), MOST_METRICS):
                MLFlowLogger.log_metrics(self, dict(new[at : at + MOST_METRICS]), step)

        self._send(work)

    def _has(self, name: str, step: int) -> bool:
        if self._skips and name not in self._metrics:
            self._metrics[name] = steps_known(self.experiment, str(self.run_id), name)
        return self._skips and step in self._metrics[name]

    @rank_zero_only
    def log_media(self, figures: Mapping[str, Any], histograms: Mapping[str, Sequence[float]], step: int) -> None:
        """Log heatmaps as MLflow images, which have a slider over steps. MLflow has no histograms."""

        def work() -> None:
            if self._images is None:
                self._images = images_known(self.experiment, str(self.run_id)) if self._skips else set()
            for name, figure in figures.items():
                if (name, step) not in self._images:
                    image = pixels(figure)
                    self.experiment.log_image(self.run_id, image, key=name, step=step, synchronous=True)

        self._send(work)

    @rank_zero_only
    def log_samples(self, samples: Sequence[Mapping[str, Any]], step: int) -> None:
        """Log texts ``{"prompt", "text"}`` as an artifact ``samples/step_000250.md``."""
        file = f"samples/step_{step:06d}.md"
        self._send(lambda: self.experiment.log_text(self.run_id, markdown(samples), file))

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Do nothing: :meth:`conclude` closes the run, as it knows how it ended."""

    @rank_zero_only
    def conclude(self, exit_code: int, result: Mapping[str, Any]) -> None:
        """Record how the run ended: finished, killed (interrupted) or failed, with the reason as a tag."""
        if not self._initialized:
            return
        status = STATUS.get(str(result.get("status")), "FAILED" if exit_code else "FINISHED")
        if reason := str(result.get("reason") or "")[:5000]:
            self._send(lambda: self.experiment.set_tag(self.run_id, "reason", reason))
        self._send(lambda: self.experiment.set_terminated(self.run_id, status))

    def _send(self, work: Callable[[], None]) -> None:
        """Send something to MLflow; if that fails, training continues."""
        if self._lost:
            return
        try:
            work()
        except UserError:
            raise
        except Exception as error:  # database and network errors, of any type that MLflow or its libraries raise
            self._lost = True
            told = one_line(error)[:300]
            tell(f"MLflow failed ({type(error).__name__}: {told}); training continues without it")
