"""The progress line on the terminal: step, bar, time left, then as many metrics as fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console, RenderableType
from rich.progress import Progress, Task, TaskID
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from s15erav3.callbacks.telemetry import Telemetry

FIGURES = (
    ("loss", "train/loss", "{:.3f}", 0),
    ("bpb", "train/bpb", "{:.3f}", 4),
    ("val bpb", "val/bpb", "{:.4f}", 1),
    ("MaxVio", "balance/maxvio_batch", "{:.2f}", 2),
    ("global", "balance/maxvio_global", "{:.2f}", 5),
    ("tokens/s", "perf/tokens_per_second", "{:,.0f}", 3),
)
"""Label, metric, format and priority of each metric; lower priorities are shown first."""


class Watch(ProgressBar):
    """A live bar on a terminal; elsewhere (a log file, CI) a plain line at each validation.

    It shows the metrics that :class:`Telemetry` read last, and so never synchronises the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True, highlight=False)
        self._bar: Line | None = None
        self._task = TaskID(0)
        self._enabled = True
        self._validated: dict[str, float] = {}

    def disable(self) -> None:
        """Disable output; Lightning calls this on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Enable output again."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.console.is_terminal or not self._enabled:
            return
        self._bar = Line(console=self.console)
        self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, known={})
        self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._update(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._enabled or not trainer.global_step:
            return
        self._validated = {
            name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("train/")
        }
        self._update(trainer)
        begin = f"step {trainer.global_step:>6}/{trainer.max_steps}  "
        room = self.console.width - len(begin) if self._bar is not None else None
        target = self._bar.console if self._bar is not None else self.console
        target.print(begin + fitting(self._known(trainer), room), soft_wrap=True)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def _update(self, trainer: L.Trainer) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, known=self._known(trainer))

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _known(self, trainer: L.Trainer) -> dict[str, float]:
        telemetry = next((c for c in trainer.callbacks if isinstance(c, Telemetry)), None)  # type: ignore[attr-defined]
        return (telemetry.latest if telemetry else {}) | self._validated


class Line(Progress):
    """A progress bar of one line; its task has the metrics ``known``."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what Rich draws; rendered each time, as a terminal may change its width."""
        return [drawn(task, self.console.width) for task in self.tasks]


def drawn(task: Task, width: int) -> RenderableType:
    """Return step, bar, time left and metrics in at most ``width`` columns."""
    total = task.total or 0
    step = f"step {task.completed:.0f}/{total:.0f}"
    left = "-:--:--" if task.time_remaining is None else str(timedelta(seconds=int(task.time_remaining)))
    bar = 20 if width >= 100 else 10
    grid = Table.grid(padding=(0, 1))
    if width < len(step) + bar + len(left) + 2:
        grid.add_row(Text(step), Text(left))
    else:
        figures = fitting(task.fields["known"], width - len(step) - bar - len(left) - 3)
        grid.add_row(Text(step), Bar(total, task.completed, width=bar), Text(left), Text(figures))
    return grid


def fitting(known: Mapping[str, float], room: int | None) -> str:
    """Return the known metrics that fit into ``room`` columns, by priority; all of them if it is ``None``."""
    texts = {rank: f"{name} {form.format(known[key])}" for name, key, form, rank in FIGURES if key in known}
    chosen, used = set(), -2
    for rank in sorted(texts):
        used += len(texts[rank]) + 2
        if room is not None and used > room:
            break
        chosen.add(rank)
    return "  ".join(text for rank, text in texts.items() if rank in chosen)
