"""Weights & Biases logger: online if an account is configured, one run per job, never blocking training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from s15erav3.loggers.wandb_history import steps_known
from s15erav3.loggers.wandb_place import commands, place
from s15erav3.loggers.wandb_server import end, start, sync_command, tell, within
from s15erav3.runs.parts import parts_of
from s15erav3.runs.records import logs_again, read_lines


class RunLogger(WandbLogger):
    """One W&B run, with one history row per logged step; a step that W&B already has is not logged again.

    Rows, figures and texts are passed to W&B's own process, which writes them to a file below ``wandb/`` and uploads
    them in the background, so training does not wait. Calls that query the server in *this* process (a table, an
    artifact) are deferred to the end, where they have a time limit.

    Args:
        run: the started W&B run; ``None`` on all ranks but the first.
        save_dir: the run's folder.
        x_axis: metric on the x axis of all charts.
        log_model: ``best`` or ``last`` uploads that checkpoint at the end, ``False`` none.
        finish_timeout: seconds to wait at the end, for requests to the server and for pending uploads.
        known: steps whose rows W&B already has, from before the run was interrupted.
    """

    def __init__(
        self,
        run: Any,
        save_dir: Path,
        project: str,
        *,
        x_axis: str,
        log_model: str | bool,
        finish_timeout: float,
        known: Collection[int] = (),
    ) -> None:
        super().__init__(save_dir=str(save_dir), project=project, experiment=run, id=run and run.id)
        self.folder, self.model_wanted, self.finish_timeout = save_dir, log_model, finish_timeout
        self._row_of: int | None = None
        self._row: dict[str, Any] = {}
        self._has_run = run is not None
        self._known, self._lost = known, False
        if run is not None:
            run.define_metric(x_axis)
            run.define_metric("*", step_metric=x_axis)

    @property
    def place(self) -> str:
        """Mode, and folder or URL of the run; empty on all ranks but the first."""
        return place(self.experiment) if self._has_run else ""

    @property
    def commands(self) -> list[str]:
        """Commands that show or upload the run."""
        return commands(self.experiment) if self._has_run else []

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add to the row of ``step``; a new step completes the previous row."""
        if step != self._row_of:
            self.end_row()
        if step in self._known:
            return
        self._row_of = step
        self._row |= metrics

    @rank_zero_only
    def end_row(self) -> None:
        """Complete the current row and send it, as one message."""
        if self._row_of is not None:
            row = {**self._row, "trainer/global_step": self._row_of}
            self._row_of, self._row = None, {}
            self._send(lambda: self.experiment.log(row))

    def _send(self, work: Callable[[], None]) -> None:
        """Pass something to W&B's own process; if that has died, training continues without it."""
        if self._lost:
            return
        try:
            work()
        except OSError as error:  # the process was killed, e.g. for lack of memory
            self._lost = True
            tell(f"W&B's process has ended ({type(error).__name__}); training continues without it")

    @rank_zero_only
    def log_media(self, figures: Mapping[str, Any], histograms: Mapping[str, Sequence[float]], step: int) -> None:
        """Add Plotly figures and histograms of values to the row of ``step``, under ``media/``."""
        import wandb

        media = {f"media/{name}": wandb.Plotly(figure) for name, figure in figures.items()}
        bars = {f"media/{name}": wandb.Histogram(values, num_bins=32) for name, values in histograms.items()}
        self.log_metrics({**media, **bars}, step)

    @rank_zero_only
    def log_samples(self, samples: Sequence[Mapping[str, Any]], step: int) -> None:
        """Add texts ``{"step", "prompt", "text"}`` to the row of ``step`` as ``media/samples``.

        At the end, all texts of the run become the table ``samples``.
        """
        import wandb

        cells = "".join(
            f"<dt>{escape(sample['prompt']) or '&empty;'}</dt><dd>{escape(sample['text'])}</dd>" for sample in samples
        )
        style = "<style>dl { font: 14px/1.4 sans-serif; white-space: pre-wrap } dt { opacity: .7 }</style>"
        self.log_metrics({"media/samples": wandb.Html(f"{style}<dl>{cells}</dl>")}, step)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Write the best score so far to the summary, as ``best/val/bpb``."""
        score, monitor = checkpoint_callback.best_model_score, checkpoint_callback.monitor
        if score is not None and monitor:
            self._send(lambda: self.experiment.summary.update({f"best/{monitor}": float(score)}))

    def conclude(self, exit_code: int, result: Mapping[str, Any]) -> None:
        """Write the result to the summary, upload table and checkpoint, and close the run.

        This takes at most twice ``finish_timeout``. Data not uploaded by then stays on disk, and the command to
        upload it is printed.

        Args:
            exit_code: 0 marks the run as finished, anything else as failed.
            result: as in ``result.json``.
        """
        run = self.experiment
        self.end_row()
        figures = {key: value for key, value in result.items() if isinstance(value, str | int | float)}
        self._send(lambda: run.summary.update(figures))
        missing = "" if self._lost else within(self.finish_timeout, lambda: self._send_large(result, exit_code == 0))
        whole = end(run, exit_code)
        if missing:
            tell(f"W&B did not receive the table of samples or the checkpoint ({missing}); they are in {self.folder}")
        if not whole:
            tell(f"W&B has not received all of this run; send it with: {sync_command(run)}")

    def _send_large(self, result: Mapping[str, Any], completed: bool) -> None:
        """Upload the table of all samples, and the requested checkpoint."""
        import wandb

        texts = self.folder / "samples.jsonl"  # includes samples from before an interruption
        if texts.exists():
            columns: list[Any] = ["step", "prompt", "text"]
            rows = [[sample.get(column) for column in columns] for sample in read_lines(texts).rows]
            place = {"trainer/global_step": result.get("steps"), "tokens": result.get("tokens")}
            self.experiment.log({"samples": wandb.Table(columns=columns, data=rows), **place})
        if self.model_wanted and completed:
            file = self.folder / "checkpoints" / f"{self.model_wanted}.ckpt"
            facts = {key: result[key] for key in ("steps", "tokens", "val/bpb", "best/val/bpb") if key in result}
            artifact = wandb.Artifact(f"model-{self.experiment.id}", "model", metadata=facts)
            artifact.add_file(str(file), policy="immutable")  # upload in place; a copy would stay in the user's home
            if parts_of(file).is_dir():
                artifact.add_dir(str(parts_of(file)), name=parts_of(file).name, policy="immutable")
            self.experiment.log_artifact(artifact, aliases=[str(self.model_wanted)])


def wandb_logger(
    save_dir: str,
    project: str,
    group: str | None = None,
    name: str | None = None,
    tags: Sequence[str] = (),
    x_axis: str = "trainer/global_step",
    log_model: str | bool = False,
    init_timeout: float = 20,
    finish_timeout: float = 120,
    **settings: Any,
) -> RunLogger:
    """Start a run, or resume the one of ``save_dir``.

    The run is offline unless an account is configured on this machine; ``WANDB_MODE`` overrides this. If the server
    does not answer in time, the run continues offline and a message is printed.

    Args:
        save_dir: the run's folder; W&B writes below ``wandb/`` in it.
        project, group: as in ``wandb.init``.
        name: ``None`` generates a name from the settings that distinguish this run from others.
        tags: in addition to those of the config choices, such as ``experts=e16``.
        x_axis: metric on the x axis of all charts, ``trainer/global_step`` or ``tokens``.
        log_model: ``best`` or ``last`` uploads that checkpoint as an artifact at the end.
        init_timeout, finish_timeout: seconds to wait for the server at the start and at the end.
        settings: further arguments of ``wandb.init``.

    Raises:
        UserError: W&B rejects a value.
    """
    folder, run = Path(save_dir), None
    if not getattr(rank_zero_only, "rank", 0):
        run = start(
            folder,
            project=project,
            group=group,
            name=name,
            tags=tags,
            init_timeout=init_timeout,
            finish_timeout=finish_timeout,
            **settings,
        )
    same = logs_again(folder)
    known = steps_known(folder, None if run.settings._offline else run.step) if run is not None and same else ()
    return RunLogger(
        run, folder, project, x_axis=x_axis, log_model=log_model, finish_timeout=finish_timeout, known=known
    )
