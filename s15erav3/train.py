"""``s15erav3 train``: a run, a sweep, or the continuation of a run."""

from __future__ import annotations

import logging
import shlex
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from s15erav3 import cli, runs, screen
from s15erav3.build import build_callbacks, build_data, build_loggers, build_module, build_trainer, plain
from s15erav3.callbacks.heartbeat import beat
from s15erav3.callbacks.last_checkpoint import STOPS, Interrupted
from s15erav3.callbacks.samples import Samples
from s15erav3.checkpoint import candidates, load_tokenizer, load_weights
from s15erav3.data.datamodule import CommentaryData
from s15erav3.device import choose_accelerator
from s15erav3.errors import Accident, UserError, check_number, disk_full, tell
from s15erav3.files import replace_text
from s15erav3.flags import Line, split
from s15erav3.lock import only_trainer, refuse_if_at_work
from s15erav3.loggers.wandb import finish_wandb
from s15erav3.outcome import because, diverged, ending, measured, record, say_interrupted
from s15erav3.overrides import key_of, quote, taken
from s15erav3.pretrained import adopt
from s15erav3.ranks.together import together
from s15erav3.ranks.watch import RankEnded, at_most
from s15erav3.records import read_resumes
from s15erav3.resume import GROUPS, SINCE, Resumed, resume, take_over
from s15erav3.settings import check_settings
from s15erav3.training.module import LanguageModule
from s15erav3.training.nonfinite import Diverged


class Session(NamedTuple):
    """Everything of a run that is ready to begin."""

    data: CommentaryData
    module: LanguageModule
    trainer: L.Trainer


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 train --help``."""
    line = split(arguments)
    wanted, rest = taken("resume", line.words)
    sweeping = line.multirun or any(key_of(word) == "sweep.resume" for word in line.words)
    try:
        if wanted and not line.has("--help"):
            resume(wanted, Line(line.flags, rest), train)
        elif sweeping:
            from s15erav3.sweeps.multirun import main as sweep  # which needs this module

            return sweep([*line.flags, *rest])
        else:
            cli.run("train", train, [*line.flags, *rest])
    except Interrupted as error:
        return say_interrupted(error)
    return 0


def train(cfg: DictConfig, resumed: Resumed | None = None, callbacks: Sequence[L.Callback] = ()) -> dict[str, Any]:
    """Train as ``cfg`` says, in the folder ``cfg.run_dir``.

    Args:
        callbacks: beside those of the group of that name.

    Returns:
        what ``result.json`` there now holds.

    Raises:
        UserError: the config, the data or the checkpoint is unusable, or training diverged. A single run
            that never began leaves no folder behind.
        Interrupted: a signal ended it; it can be resumed.
        Pruned: one of ``callbacks`` ended it.
    """
    be_quiet()
    runs.code()  # now, as its files may be edited while this runs
    run_dir = Path(cfg.run_dir)
    if resumed is None and runs.is_first_rank():
        refuse_if_at_work(run_dir)
        runs.claim(run_dir)  # once more below: here nothing has been written yet, not even a lock
    with only_trainer(run_dir) if runs.is_first_rank() else nullcontext(), stops_early(run_dir):
        return _train(cfg, run_dir, resumed, callbacks)


def _train(cfg: DictConfig, run_dir: Path, resumed: Resumed | None, more: Sequence[L.Callback]) -> dict[str, Any]:
    began_at = time.time()
    one_of_many = HydraConfig.get().mode == RunMode.MULTIRUN
    session: Session | None = None
    ended: BaseException | None = None
    claimed = False

    def conclude(ended: BaseException | None) -> dict[str, Any]:
        """Write down how the run ended, or remove what is there of one that never began."""
        outcome, exit_code = ({"status": "completed", "reason": ""}, 0) if ended is None else ending(ended)
        result = outcome | {"wall_seconds": time.time() - began_at}
        refused = isinstance(ended, UserError) and not isinstance(ended, Accident)
        began = session is not None and (session.trainer.global_step > 0 or not refused)
        if not runs.is_first_rank():
            return result
        if claimed and not began and not one_of_many:
            runs.discard(run_dir)
        try:
            if (session is not None and run_dir.exists()) or (one_of_many and (claimed or resumed is not None)):
                result |= runs.provenance()
                result |= {"resumed": history} if (history := read_resumes(run_dir)) else {}
                if session is not None:
                    several = ended is not None and session.trainer.world_size > 1
                    if several:
                        record(run_dir, result)
                    with at_most(30) if several else nullcontext():  # a device may wait for a rank that is gone
                        result |= measured(cfg.seed, *session)
                record(run_dir, result)
        finally:
            finish_wandb(exit_code, result)
        return result

    def last_words(ended: RankEnded) -> int:
        error = because(ended, run_dir)
        status = say_interrupted(error) if isinstance(error, Interrupted) else tell(error)
        conclude(error)
        return status

    try:
        if resumed is None and runs.is_first_rank():
            runs.claim(run_dir)
            claimed = True
            runs.write_config(run_dir, cfg, HydraConfig.instance().cfg)  # type: ignore[arg-type]
            beat(run_dir, {"step": 0, "first_step": 0})
        session = prepare(cfg, run_dir, resumed, more)
        file = resumed and resumed.file
        if resumed is not None:
            resumed.payload.clear()  # Lightning reads the file again; two copies would stay in memory
            if runs.is_first_rank():
                (run_dir / "result.json").unlink(missing_ok=True)  # the sign that the run has ended
        screen.banner(cfg, session.data, session.module, session.trainer, run_dir, resumed is not None)
        again = [f"hydra.run.dir={quote(str(run_dir))}", *([f"resume={file}"] if file else [])]
        timeout = cfg.trainer.get("rank_timeout", SINCE["trainer"]["rank_timeout"])
        with together(session.trainer, again, timeout, last_words):
            session.trainer.fit(session.module, datamodule=session.data, ckpt_path=file, weights_only=True)
    except BaseException as caught:
        error = because(caught, run_dir) if isinstance(caught, RankEnded) else caught
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            error = error.__context__  # Lightning makes the one of the other
        ended = error
        if isinstance(error, Diverged):
            raise UserError(diverged(error, cfg, run_dir)) from error
        if isinstance(error, MisconfigurationException):
            raise UserError(f"the group trainer does not fit: {' '.join(str(error).split())}") from error
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
    if cfg.get("report") and runs.is_first_rank():
        add_report(run_dir, cfg.trainer.accelerator)
    screen.summary(cfg, result, samples, run_dir)
    return result


def add_report(run_dir: Path, accelerator: str) -> None:
    """Write ``report.html``. The run is complete, and its result written: what goes wrong here is told, and no more."""
    from s15erav3.report import write_report  # a second, for the figures

    try:
        write_report(run_dir, accelerator=accelerator)
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        screen.say(f"no report.html: {told}; try {screen.program()} report {shlex.quote(str(screen.short(run_dir)))}")


@contextmanager
def stops_early(run_dir: Path) -> Iterator[None]:
    """Until training handles signals itself, and after it: Ctrl-C, SIGTERM and the like end this process in good
    order. Lightning would make exit status 1 of a KeyboardInterrupt while it sets up."""
    before: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number, run_dir)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *STOPS):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def be_quiet() -> None:
    """Lightning's remarks are about its defaults, which this program replaces on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")


def prepare(cfg: DictConfig, run_dir: Path, resumed: Resumed | None, more: Sequence[L.Callback] = ()) -> Session:
    """Build all parts of a run; nothing is trained or logged yet.

    Args:
        more: callbacks beside the config's.

    Raises:
        UserError: a part cannot be built, or the checkpoint does not fit.
    """
    for group in GROUPS:
        if not isinstance(cfg[group], DictConfig):
            raise UserError(
                f"{group}={cfg[group]} is no group of settings; change single settings ({group}.key=value)."
            )
    check_settings(cfg, "train")
    for name in ("resume", "sweep.resume"):
        if resumed is None and (place := OmegaConf.select(cfg, name)):
            raise UserError(
                f"{name}={place} stands in a config file, where it resumes nothing; take it out there, and type "
                f"train {name}={shlex.quote(str(place))}."
            )
    check_number("seed", cfg.seed, at_least=0, at_most=2**32 - 1, whole=True)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    origin, tokenizer = None, None
    if cfg.init_from and resumed is None:
        origin = adopt(cfg)
        tokenizer = origin.tokenizer
        if runs.is_first_rank() and (run_dir / ".hydra").is_dir():
            # With what was adopted, for resuming.
            replace_text(run_dir / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg))
    elif resumed is not None and cfg.init_from:
        tokenizer = load_tokenizer(resumed.payload, resumed.file)
    data = build_data(cfg, tokenizer)
    module = build_module(cfg, data, choose_accelerator(cfg.trainer.accelerator))
    if resumed is not None:
        load_weights(module.net, resumed.payload, resumed.file)
    elif origin is not None:
        module.net.load_state_dict(origin.net.state_dict())
    description = {
        "config": plain(cfg),
        "model": module.net.config.to_dict(),
        "tokenizer": data.tokenizer.state(),
        "sequence_length": data.length,
    }
    callbacks = [*more, *build_callbacks(cfg, run_dir, description)]
    trainer = build_trainer(cfg, run_dir, data, callbacks)
    description["ranks"] = trainer.world_size
    if trainer.world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"-m with {trainer.world_size} devices a run is not possible: each rank would begin a sweep of its own; "
            "take trainer.devices=1, or start the runs one by one."
        )
    if resumed is not None:
        take_over(cfg, run_dir, resumed, data, module, trainer)
    trainer.loggers = build_loggers(cfg, module.net.config)
    return Session(data, module, trainer)
