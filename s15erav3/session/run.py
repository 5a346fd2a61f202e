"""Run one training from its config to its result."""

from __future__ import annotations

import logging
import shlex
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from s15erav3.callbacks.last_checkpoint import REQUEUE, STOPS, Interrupted, LastCheckpoint
from s15erav3.callbacks.samples import Samples
from s15erav3.cli.overrides import quote
from s15erav3.errors import Accident, UserError, disk_full, one_line, tell
from s15erav3.loggers.closing import close_all
from s15erav3.ranks import is_first_rank
from s15erav3.ranks.outside import announce, answer
from s15erav3.ranks.together import together
from s15erav3.ranks.watch import LEAVING, WRITING, RankEnded, at_most
from s15erav3.runs.checkpoint import candidates
from s15erav3.runs.code import code
from s15erav3.runs.folder import claim, discard, write_config
from s15erav3.runs.lock import only_trainer, refuse_if_at_work
from s15erav3.runs.progress import beat
from s15erav3.runs.records import read_resumes
from s15erav3.runs.result import provenance
from s15erav3.session.banner import banner, summary
from s15erav3.session.outcome import because, diverged, ending, measured, record, say_interrupted
from s15erav3.session.prepare import Session, prepare
from s15erav3.session.resume import SINCE, Resumed
from s15erav3.terminal import program, say, short
from s15erav3.training.cuda_graph import Unrecordable
from s15erav3.training.nonfinite import Diverged


def train(cfg: DictConfig, resumed: Resumed | None = None, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train with ``cfg``, in the folder ``cfg.run_dir``.

    Args:
        callbacks: in addition to those of the config group ``callbacks``.

    Returns:
        The content of ``result.json``.

    Raises:
        UserError: the config, the data or the checkpoint is unusable, or training diverged. A single run
            that never started leaves no folder behind.
        Interrupted: a signal ended the run; it can be resumed. In a sweep also raised for a complete run, if the
            signal came during its last step or validation.
        Pruned: one of ``callbacks`` ended the run.
    """
    be_quiet()
    code()  # record it now, since the source files may be edited during the run
    run_dir = Path(cfg.run_dir)
    if resumed is None and is_first_rank():
        refuse_if_at_work(run_dir)
        claim(run_dir)  # repeated below: nothing has been written yet, not even a lock
    with only_trainer(run_dir) if is_first_rank() else nullcontext(), stops_early(run_dir) as stopped:
        return _train(cfg, run_dir, resumed, callbacks, stopped)


def _train(
    cfg: DictConfig, run_dir: Path, resumed: Resumed | None, more: Sequence[Callback], stopped: Sequence[Interrupted]
) -> dict[str, Any]:
    began_at = time.time()
    one_of_many = HydraConfig.get().mode == RunMode.MULTIRUN
    session: Session | None = None
    ended: BaseException | None = None
    claimed = False

    def conclude(ended: BaseException | None) -> dict[str, Any]:
        """Record how the run ended, or remove the files of a run that never started."""
        outcome, exit_code = ({"status": "completed", "reason": ""}, 0) if ended is None else ending(ended)
        result = outcome | {"wall_seconds": time.time() - began_at}
        refused = isinstance(ended, UserError) and not isinstance(ended, Accident)
        began = session is not None and (session.trainer.global_step > 0 or not refused)
        if not is_first_rank():
            return result
        if claimed and not began and not one_of_many:
            discard(run_dir)
        try:
            if (session is not None and run_dir.exists()) or (one_of_many and (claimed or resumed is not None)):
                result |= provenance()
                result |= {"resumed": history} if (history := read_resumes(run_dir)) else {}
                if session is not None:
                    several = ended is not None and session.trainer.world_size > 1
                    if several:
                        record(run_dir, result)
                    with at_most(30) if several else nullcontext():  # a device may block on a rank that has exited
                        result |= measured(cfg.seed, *session)
                record(run_dir, result)
        finally:
            close_all(exit_code, result)
        return result

    def last_words(ended: RankEnded) -> int:
        if session is not None:
            files: Any = session.trainer.strategy.checkpoint_io
            with suppress(Exception):
                files.finish(seconds=WRITING)
        error = because(ended, run_dir)
        status = say_interrupted(error) if isinstance(error, Interrupted) else tell(error)
        with at_most(LEAVING):  # a device or a dead network may block it
            conclude(error)
        return status

    try:
        if resumed is None and is_first_rank():
            claim(run_dir)
            claimed = True
            write_config(run_dir, cfg, HydraConfig.instance().cfg)  # type: ignore[arg-type]
            beat(run_dir, {"step": 0, "first_step": 0})
        prepared = prepare(cfg, run_dir, resumed, more)
        if is_first_rank():
            announce(str(run_dir))  # while a run that is resumed is as it was, in case another rank cannot begin
        else:
            answer()
        session = prepared
        file = resumed and resumed.file
        if resumed is not None:
            resumed.payload.clear()  # Lightning reads the file again; avoid two copies in memory
            if is_first_rank():
                (run_dir / "result.json").unlink(missing_ok=True)  # it marks the run as ended
        banner(cfg, *session, run_dir, resumed is not None)
        again = [f"hydra.run.dir={quote(str(run_dir))}", *([f"resume={file}"] if file else [])]
        timeout = cfg.trainer.get("rank_timeout", SINCE["trainer"]["rank_timeout"])
        with together(session.trainer, again, timeout, last_words):
            session.trainer.fit(session.module, datamodule=session.data, ckpt_path=file, weights_only=True)
    except BaseException as caught:
        error = because(caught, run_dir) if isinstance(caught, RankEnded) else caught
        if stopped and isinstance(error, Exception):  # a library has wrapped it
            error = stopped[0]
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            error = error.__context__  # Lightning turned the KeyboardInterrupt into SystemExit
        ended = error
        if isinstance(error, Diverged):
            raise UserError(diverged(error, cfg, run_dir)) from error
        if isinstance(error, Unrecordable):
            raise UserError(
                f"cuda_graphs=true: a step cannot be recorded ({one_line(error)}); leave it out."
            ) from error
        if isinstance(error, MisconfigurationException):
            raise UserError(f"the group trainer does not fit: {one_line(error)}") from error
        if not isinstance(error, UserError) and (why := disk_full(error)):
            told = "the last checkpoint is intact" if any(candidates(run_dir)) else "there is no checkpoint yet"
            ended = Accident(f"the disk is full ({why}); {told}: make room, then resume the run.")
            raise ended from error
        if error is caught:
            raise
        raise error from caught
    finally:
        result = conclude(ended)
    callbacks = session.trainer.callbacks  # type: ignore[attr-defined]
    samples = [sample for c in callbacks if isinstance(c, Samples) for sample in c.latest]
    if cfg.get("report") and is_first_rank():
        add_report(run_dir, cfg.trainer.accelerator)
    summary(cfg, session.trainer, result, samples, run_dir)
    late = max((c.received for c in callbacks if isinstance(c, LastCheckpoint)), default=0)
    if one_of_many and late not in (0, REQUEUE):  # the run is complete, but its sweep must stop
        raise Interrupted(late, run_dir)
    return result


def add_report(run_dir: Path, accelerator: str) -> None:
    """Write ``report.html``. The run is complete and its result is written, so a failure here is only reported."""
    from s15erav3.session.report import write_report  # slow import (about a second), for the figures

    try:
        write_report(run_dir, accelerator=accelerator)
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        say(f"no report.html: {told}; try {program()} report {shlex.quote(str(short(run_dir)))}")


@contextmanager
def stops_early(run_dir: Path) -> Iterator[list[Interrupted]]:
    """Handle Ctrl-C, SIGTERM and similar signals with a clean exit before and after training.

    Training handles signals itself. During setup, Lightning would turn a KeyboardInterrupt into exit status 1.

    Yields:
        What was raised, for the case that a library wraps it in an error of its own, as pydantic does.
    """
    before: dict[int, Any] = {}
    stop = _Stop(run_dir)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *STOPS):
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler) or isinstance(handler, _Stop):  # of the sweep
                before[number] = signal.signal(number, stop)
    try:
        yield stop.raised
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stop:
    """A signal handler that raises, and keeps what it has raised."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.raised: list[Interrupted] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.raised.append(Interrupted(number, self.run_dir))
        raise self.raised[-1]


def be_quiet() -> None:
    """Silence Lightning's messages about its defaults, which this program replaces on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")
