"""The live table of a sweep on a terminal; elsewhere one line when a job starts and one when it ends."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from s15erav3.runs.reader import Run, read_run
from s15erav3.sweeps.columns import fitting
from s15erav3.sweeps.label import head, label, varying
from s15erav3.sweeps.planned import Planned
from s15erav3.sweeps.slots import Slot
from s15erav3.terminal import console, say, short

SHOWN = 8
"""Number of rows for ended and waiting jobs, in addition to all running ones."""
STYLES = {"running": "bold", "done": "green", "pruned": "cyan", "failed": "red", "stopped": "yellow"}
STYLES |= dict.fromkeys(("skipped", "waiting"), "dim")


class Row:
    """A job in the table."""

    def __init__(self, job: Planned) -> None:
        self.job, self.slot = job, ""
        self.run: Run | None = None
        self.state = "skipped" if job.found.state == "done" else "waiting"
        self.began, self.seconds = 0.0, 0.0
        self.look()

    def look(self) -> None:
        """Read the run's progress."""
        if self.state != "waiting":
            self.run = read_run(self.job.folder)

    def figure(self, name: str) -> float | None:
        """Return a metric of the run, if it is known yet."""
        value = self.run.result.get(name) if self.run else None
        return float(value) if isinstance(value, int | float) else None

    def left(self) -> float | None:
        """Return the seconds that a running job still needs at its own speed; ``None`` before the speed is known."""
        step, last, first, seconds = (self.figure(k) for k in ("step", "max_steps", "first_step", "seconds"))
        if step is None or last is None or first is None or seconds is None or step <= first or last < 0:
            return None
        return (last - step) / (step - first) * seconds


class Board:
    """All jobs of a sweep, across several calls of the launcher.

    Args:
        slots: the slots in which jobs run.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self.rows: dict[int, Row] = {}
        self._live: Live | None = None
        self._looked = 0.0

    def add(self, jobs: Sequence[Planned]) -> None:
        """Add jobs that will run or were skipped."""
        self.rows |= {job.number: Row(job) for job in jobs}
        self._varying = varying([row.job.overrides for row in self.rows.values()])

    def __enter__(self) -> Board:
        if console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def begun(self, job: Planned, slot: Slot) -> None:
        """Record that the job has a process."""
        row = self.rows[job.number]
        row.state, row.slot, row.began = "running", slot.name, time.time()
        if self._live is None:
            log = shlex.quote(str(short(job.folder / "train.log")))
            say(f"{self.name(row)} starts at {slot.name}; {log}")

    def began(self, job: Planned) -> float:
        """Return the time at which its process started."""
        return self.rows[job.number].began

    def ended(self, job: Planned) -> None:
        """Record that its process is gone and its result is written."""
        row = self.rows[job.number]
        run = read_run(job.folder)
        row.state = {"completed": "done", "failed": "failed", "pruned": "pruned"}.get(run.status, "stopped")
        row.seconds = time.time() - row.began
        row.look()
        told = f"{row.state} in {clock(row.seconds)}" + (
            f": {run.reason.rstrip('.')}" if run.reason else self._figures(row)
        )
        say(f"{self.name(row)} {told}; {self.progress()}", words=True)

    def _figures(self, row: Row) -> str:
        bpb, violation = row.figure("val/bpb"), row.figure("balance/maxvio_global")
        return (f": val/bpb {bpb:.4f}" if bpb is not None else "") + (
            f", MaxVio {violation:.3f}" if violation is not None else ""
        )

    def sets(self, row: Row) -> str:
        """Return the settings by which the job differs from others."""
        return label(row.job, self._varying)

    def name(self, row: Row) -> str:
        """Return the job's position in the sweep and its settings: ``[3/8] e16 seed=2``."""
        return f"{head(row.job, len(self.rows))} {self.sets(row)}".rstrip()

    def progress(self) -> str:
        """Return the number of ended jobs, and the estimated end of the last one."""
        counts = Counter(row.state for row in self.rows.values())
        ended = len(self.rows) - counts["waiting"] - counts["running"]
        left = self.left()
        said = [f"{ended} of {len(self.rows)} ended"] + [
            f"{counts[state]} {state}"
            for state in ("running", "pruned", "failed", "stopped", "skipped")
            if counts[state]
        ]
        return ", ".join(said) + (f", {clock(left)} left" if left else "")

    def left(self) -> float | None:
        """Return the seconds until the last job ends, if the others take as long as those so far."""
        running = [row for row in self.rows.values() if row.state == "running"]
        waiting = sum(row.state == "waiting" for row in self.rows.values())
        lefts = {row.job.number: row.left() for row in running}
        whole = [row.seconds for row in self.rows.values() if row.state == "done" and row.seconds]
        whole += [time.time() - row.began + (lefts[row.job.number] or 0) for row in running if lefts[row.job.number]]
        if not whole:
            return None
        mean = sum(whole) / len(whole)
        rest = [known if known is not None else mean for known in lefts.values()]
        return max((sum(rest) + mean * waiting) / len(self.slots), max(rest, default=0.0))

    def refresh(self) -> None:
        """Poll the running jobs once a second, and redraw."""
        if self._live is None or time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        for row in self.rows.values():
            if row.state == "running":
                row.look()
        self._live.update(self.table(), refresh=True)

    def table(self) -> Any:
        """Return the table: running jobs, the last ended and the next waiting ones, and total counts below."""
        rows = [(self._cells(row), STYLES[row.state]) for row in self._chosen()]
        table = fitting(rows, console.width)
        return Group(table, Text(self.progress(), style="dim"))

    def _cells(self, row: Row) -> list[str]:
        step, last = row.figure("step") or row.figure("steps"), row.figure("max_steps")
        violation = row.figure("balance/maxvio_global") or row.figure("balance/maxvio_batch")
        left = row.left() if row.state == "running" else None
        return [
            str(row.job.number),
            self.sets(row),
            row.state,
            row.slot,
            "" if step is None or last is None else f"{step:.0f}/{last:.0f}",
            number(row.figure("val/bpb"), 4),
            number(violation, 3),
            clock(left) if left is not None else "",
        ]

    def _chosen(self) -> list[Row]:
        rows = list(self.rows.values())
        ended = sorted((row for row in rows if row.state in ("done", "pruned", "failed", "stopped")), key=_ended_at)[
            -SHOWN:
        ]
        running = [row for row in rows if row.state == "running"]
        return ended + running + [row for row in rows if row.state == "waiting"][: SHOWN // 2]


def _ended_at(row: Row) -> float:
    return row.began + row.seconds


def number(value: float | None, digits: int) -> str:
    """Format a number; empty for ``None``."""
    return "" if value is None else f"{value:.{digits}f}"


def clock(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
