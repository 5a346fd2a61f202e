"""Weights & Biases: online where an account is known, one run per job, and never in the way of training."""

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
from s15erav3.loggers.wandb_server import arrived, begin, give_up, sync_command, tell, within
from s15erav3.runs import naming
from s15erav3.runs.records import read_lines, read_resumes


class RunLogger(WandbLogger):
    """One W&B run, with one history row for each step that is logged; a step that it has already is not told again.

    Rows, figures and texts are handed to W&B's own process, which writes them to a file below ``wandb/`` and sends
    them when it can: training waits for none of it. What asks the server a question in *this* process (a table, an
    artifact) is left for the end, where there is a limit of time.

    Args:
        run: the run that W&B has begun; ``None`` in other ranks than the first.
        save_dir: the run's folder.
        x_axis: the metric that all others are drawn over.
        log_model: ``best`` or ``last`` sends that checkpoint at the end, ``False`` none.
        finish_timeout: seconds to wait at the end, for what is asked of the server and for what is still under way.
        known: steps whose rows W&B has, of the same run before it was interrupted.
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
        self._has_run = run is not None
        self._known, self._lost = known, False
        if run is not None:
            run.define_metric(x_axis)
            run.define_metric("*", step_metric=x_axis)

    @property
    def place(self) -> str:
        """Mode, and folder or URL of the run; nothing in other ranks than the first."""
        return place(self.experiment) if self._has_run else ""

    @property
    def commands(self) -> list[str]:
        """What to type to look at the run, and to send it."""
        return commands(self.experiment) if self._has_run else []

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add to the row of ``step``; with a new step the row before is complete."""
        if step != self._row_of:
            self.end_row()
        if step in self._known:
            return
        self._row_of = step
        self._send(lambda: self.experiment.log({**metrics, "trainer/global_step": step}, commit=False))

    @rank_zero_only
    def end_row(self) -> None:
        """The row at hand is complete and may go."""
        if self._row_of is not None:
            self._send(lambda: self.experiment.log({}, commit=True))
            self._row_of = None

    def _send(self, work: Callable[[], None]) -> None:
        """Hand something to W&B's own process; without it training goes on."""
        if self._lost:
            return
        try:
            work()
        except OSError as error:  # killed, for want of memory say
            self._lost = True
            tell(f"W&B's own process is gone ({type(error).__name__}); training goes on without it")

    @rank_zero_only
    def log_media(self, figures: Mapping[str, Any], histograms: Mapping[str, Sequence[float]], step: int) -> None:
        """Add Plotly figures and histograms of values to the row of ``step``, under ``media/``."""
        import wandb

        media = {f"media/{name}": wandb.Plotly(figure) for name, figure in figures.items()}
        bars = {f"media/{name}": wandb.Histogram(values, num_bins=32) for name, values in histograms.items()}
        self.log_metrics({**media, **bars}, step)

    @rank_zero_only
    def log_samples(self, samples: Sequence[Mapping[str, Any]], step: int) -> None:
        """Add texts ``{"step", "prompt", "text"}`` to the row of ``step``, to be read as ``media/samples``; those of
        the whole run become the table ``samples`` at the end."""
        import wandb

        cells = "".join(
            f"<dt>{escape(sample['prompt']) or '&empty;'}</dt><dd>{escape(sample['text'])}</dd>" for sample in samples
        )
        style = "<style>dl { font: 14px/1.4 sans-serif; white-space: pre-wrap } dt { opacity: .7 }</style>"
        self.log_metrics({"media/samples": wandb.Html(f"{style}<dl>{cells}</dl>")}, step)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Tell the best score so far in the summary, as ``best/val/bpb``."""
        score, monitor = checkpoint_callback.best_model_score, checkpoint_callback.monitor
        if score is not None and monitor:
            self._send(lambda: self.experiment.summary.update({f"best/{monitor}": float(score)}))

    def conclude(self, exit_code: int, result: Mapping[str, Any]) -> None:
        """Put the result into the summary, send table and checkpoint, and close the run, all within twice
        ``finish_timeout`` at most. What has not arrived by then stays on disk, and it is said how to send it.

        Args:
            exit_code: 0 marks the run as finished, anything else as failed.
            result: as in ``result.json``.
        """
        run = self.experiment
        self.end_row()
        figures = {key: value for key, value in result.items() if isinstance(value, str | int | float)}
        self._send(lambda: run.summary.update(figures))
        missing = "" if self._lost else within(self.finish_timeout, lambda: self._send_large(result, exit_code == 0))
        try:
            run.finish(exit_code=exit_code)
            whole = run.settings._offline or arrived(run)
        except TimeoutError:
            whole = False
        except OSError:  # of a process that is gone
            whole = False
            give_up()
        if missing:
            tell(f"W&B did not take the table of samples or the checkpoint ({missing}); they lie in {self.folder}")
        if not whole:
            tell(f"W&B has not received all of this run; send it with: {sync_command(run)}")

    def _send_large(self, result: Mapping[str, Any], completed: bool) -> None:
        """The table of all samples, and the checkpoint that is wanted."""
        import wandb

        texts = self.folder / "samples.jsonl"  # with those from before the run was interrupted
        if texts.exists():
            columns: list[Any] = ["step", "prompt", "text"]
            rows = [[sample.get(column) for column in columns] for sample in read_lines(texts).rows]
            place = {"trainer/global_step": result.get("steps"), "tokens": result.get("tokens")}
            self.experiment.log({"samples": wandb.Table(columns=columns, data=rows), **place})
        if self.model_wanted and completed:
            file = self.folder / "checkpoints" / f"{self.model_wanted}.ckpt"
            facts = {key: result[key] for key in ("steps", "tokens", "val/bpb", "best/val/bpb") if key in result}
            artifact = wandb.Artifact(f"model-{self.experiment.id}", "model", metadata=facts)
            artifact.add_file(str(file), policy="immutable")  # as it lies; a copy would stay in the user's home
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
    """Begin a run, or go on with the one of ``save_dir``.

    Offline unless this machine knows an account; ``WANDB_MODE`` decides otherwise. If the server does not answer in
    time the run goes on offline, and it is said.

    Args:
        save_dir: the run's folder; W&B writes below ``wandb/`` in it.
        project, group: as in ``wandb.init``.
        name: ``None`` says in it what tells this run from others.
        tags: beside those of the choices, as ``experts=e16``.
        x_axis: metric that all others are drawn over, ``trainer/global_step`` or ``tokens``.
        log_model: ``best`` or ``last`` sends that checkpoint as an artifact at the end.
        init_timeout, finish_timeout: seconds to wait for the server, at the beginning and at the end.
        settings: further arguments of ``wandb.init``.

    Raises:
        UserError: W&B refuses a value.
    """
    folder, run = Path(save_dir), None
    if not getattr(rank_zero_only, "rank", 0):
        chosen = naming.choices(folder)
        run = begin(
            folder,
            init_timeout=init_timeout,
            finish_timeout=finish_timeout,
            project=project,
            group=group,
            job_type="train",
            name=name or naming.run_name(folder, chosen),
            tags=naming.tags(chosen, list(tags)),
            config={"choices": chosen},
            **settings,
        )
    resumes = read_resumes(folder)
    same = bool(resumes) and not resumes[-1].get("changed")
    known = steps_known(folder, None if run.settings._offline else run.step) if run is not None and same else ()
    return RunLogger(
        run, folder, project, x_axis=x_axis, log_model=log_model, finish_timeout=finish_timeout, known=known
    )
