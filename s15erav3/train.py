"""``s15erav3 train``: a run, a sweep, or the continuation of a run."""

from __future__ import annotations

import logging
import shlex
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, NamedTuple

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig, OmegaConf

from s15erav3 import cli, runs, screen, trust
from s15erav3.build import build_callbacks, build_data, build_loggers, build_module, build_trainer, plain
from s15erav3.callbacks.heartbeat import beat
from s15erav3.callbacks.last_checkpoint import STOPS, Interrupted
from s15erav3.callbacks.samples import Samples
from s15erav3.changes import changes
from s15erav3.checkpoint import Payload, candidates, load_checkpoint, load_tokenizer, load_weights
from s15erav3.data.datamodule import CommentaryData
from s15erav3.device import choose_accelerator
from s15erav3.errors import Accident, UserError, check_number, disk_full, tell
from s15erav3.files import replace_text, whole
from s15erav3.flags import Line, split
from s15erav3.lock import only_trainer, refuse_if_at_work
from s15erav3.loggers.wandb import finish_wandb
from s15erav3.outcome import ending, measured
from s15erav3.overrides import given, key_of, quote, taken
from s15erav3.pretrained import adopt
from s15erav3.ranks.together import together
from s15erav3.ranks.watch import RankEnded, at_most
from s15erav3.records import read_resumes
from s15erav3.rehearsal import rehearse
from s15erav3.settings import check_settings
from s15erav3.training.module import LanguageModule
from s15erav3.training.nonfinite import Diverged

GROUPS = (
    "model",
    "experts",
    "balancing",
    "optimizer",
    "schedule",
    "data",
    "tokenizer",
    "trainer",
    "logger",
    "callbacks",
)
"""Groups of conf/train.yaml that a run is made of."""


RANK_TIMEOUT = 600
"""Seconds; see conf/trainer/auto.yaml."""

SINCE: dict[str, Any] = {"force": False, "trainer": {"skip_nonfinite": 0, "rank_timeout": RANK_TIMEOUT}}
"""Settings that configs of older runs do not have, as those runs were trained."""


class Session(NamedTuple):
    """Everything of a run that is ready to begin."""

    data: CommentaryData
    module: LanguageModule
    trainer: L.Trainer


class Resumed(NamedTuple):
    """The checkpoint that a run goes on from."""

    file: Path
    payload: Payload


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 train --help``."""
    line = split(arguments)
    wanted, rest = taken("resume", line.words)
    sweeping = line.multirun or any(key_of(word) == "sweep.resume" for word in line.words)
    try:
        if wanted and not line.has("--help"):
            _resume(wanted, Line(line.flags, rest))
        elif sweeping:
            from s15erav3.sweeps.multirun import main as sweep  # which needs this module

            return sweep([*line.flags, *rest])
        else:
            cli.run("train", train, [*line.flags, *rest])
    except Interrupted as error:
        return say_interrupted(error)
    return 0


def say_interrupted(error: Interrupted) -> int:
    """Tell that a signal ended a run, and how to go on; returns the exit status."""
    screen.say(f"{error}; {way_on(error.run_dir)}")
    return error.exit_status


def way_on(run_dir: Path) -> str:
    """The command that resumes a run, as a clause."""
    if not any(candidates(run_dir)):
        return "it had no checkpoint yet"
    return f"go on with: {screen.program()} train resume={shlex.quote(str(run_dir))}"


def _resume(wanted: str, line: Line) -> None:
    """Compose the run's own saved config, with the changes given now, and go on in its folder."""
    keys = [key_of(word) for word in line.words]
    if line.multirun or "sweep.resume" in keys:
        raise UserError("resume= continues one run; leave out -m, or go on with a whole sweep by sweep.resume=FOLDER.")
    if "init_from" in keys:
        raise UserError("resume= goes on with a run's own weights, so init_from has no say; leave one of them out.")
    run_dir, file, payload = runs.resume_point(wanted, Path("outputs"), Path("multirun"))
    text = payload["run"]["config"]["data"].get("path")
    settings = [
        *line.flags,
        *([given("data.path", text, multirun=False)] if text else []),
        *line.words,
        f"hydra.run.dir={quote(str(run_dir))}",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]
    config = OmegaConf.merge(SINCE, trust.read_config(run_dir / ".hydra" / "config.yaml"))
    with TemporaryDirectory() as checked:  # Hydra composes what has been looked at, and nothing that lies beside it
        OmegaConf.save(config, Path(checked) / "config.yaml")
        cli.run(
            "train",
            lambda cfg: go_on(cfg, run_dir, Resumed(file, payload)),
            settings,
            conf=Path(checked),
            name="config",
        )


def go_on(cfg: DictConfig, run_dir: Path, resumed: Resumed) -> dict[str, Any]:
    """Train further by a config that comes from the run's folder.

    Raises:
        UserError: it names code that is not this program's, and the command line does not trust it.
    """
    trust.keep_inside(cfg, run_dir)
    trust.check_targets(plain(cfg), run_dir / ".hydra" / "config.yaml")
    return train(cfg, resumed)


def train(cfg: DictConfig, resumed: Resumed | None = None) -> dict[str, Any]:
    """Train as ``cfg`` says, in the folder ``cfg.run_dir``.

    Returns:
        what ``result.json`` there now holds.

    Raises:
        UserError: the config, the data or the checkpoint is unusable, or training diverged. A single run
            that never began leaves no folder behind.
        Interrupted: a signal ended it; it can be resumed.
    """
    be_quiet()
    runs.code()  # now, as its files may be edited while this runs
    run_dir = Path(cfg.run_dir)
    if resumed is None and runs.is_first_rank():
        refuse_if_at_work(run_dir)
        runs.claim(run_dir)  # once more below: here nothing has been written yet, not even a lock
    with only_trainer(run_dir) if runs.is_first_rank() else nullcontext(), stops_early(run_dir):
        return _train(cfg, run_dir, resumed)


def _train(cfg: DictConfig, run_dir: Path, resumed: Resumed | None) -> dict[str, Any]:
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
        session = prepare(cfg, run_dir, resumed)
        file = resumed and resumed.file
        if resumed is not None:
            resumed.payload.clear()  # Lightning reads the file again; two copies would stay in memory
            if runs.is_first_rank():
                (run_dir / "result.json").unlink(missing_ok=True)  # the sign that the run has ended
        screen.banner(cfg, session.data, session.module, session.trainer, run_dir, resumed is not None)
        again = [f"hydra.run.dir={quote(str(run_dir))}", *([f"resume={file}"] if file else [])]
        with together(session.trainer, again, cfg.trainer.get("rank_timeout", RANK_TIMEOUT), last_words):
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
            raise Accident(f"the disk is full ({why}); {told}: make room, then resume the run.") from error
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


def because(ended: RankEnded, run_dir: Path) -> UserError | Interrupted:
    """The error of a run that another rank has ended."""
    if ended.kind == "signal":
        return Interrupted(ended.status, run_dir)
    if ended.status == UserError.exit_status:
        return UserError(ended.reason)
    if ended.kind == "bug":
        print(ended.trace, file=sys.stderr)
    whole = ended.kind == "Accident"
    return Accident(ended.reason if whole else f"{ended}, which ends the run; {way_on(run_dir)}.")


def record(run_dir: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``; on a disk that takes nothing more it is told what it would have said."""
    try:
        runs.write_result(run_dir, result)
    except OSError as error:
        ended = ": ".join(part for part in (result.get("status"), result.get("reason")) if part)
        screen.say(f"{run_dir / 'result.json'} cannot be written ({error.strerror}); the run ended as {ended}")


def diverged(error: Diverged, cfg: DictConfig, run_dir: Path) -> str:
    """What happened, what is left of it, and how to go on."""
    said = f"training diverged: {error}; weights, biases and files are as before it. "
    skip = f"trainer.skip_nonfinite={cfg.trainer.get('skip_nonfinite', 0) + 1}"
    file = run_dir / "checkpoints" / "last.ckpt"
    if not file.is_file():
        return f"{said}There is no checkpoint yet; lower optimizer.lr, raise schedule.warmup_steps or set {skip}."
    step = load_checkpoint(file)["global_step"]
    resume = f"{screen.program()} train resume={shlex.quote(str(run_dir))}"
    return f"{said}Last good checkpoint: {file} (step {step}); go on with: {resume} optimizer.lr=..., or {skip}."


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


def prepare(cfg: DictConfig, run_dir: Path, resumed: Resumed | None) -> Session:
    """Build all parts of a run; nothing is trained or logged yet.

    Raises:
        UserError: a part cannot be built, or the checkpoint does not fit.
    """
    for group in GROUPS:
        if not isinstance(cfg[group], DictConfig):
            raise UserError(
                f"{group}={cfg[group]} cannot be chosen for a run that is resumed: it keeps its own; change single "
                f"settings ({group}.key=value), or start a new run."
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
    callbacks = build_callbacks(cfg, run_dir, description)
    trainer = build_trainer(cfg, run_dir, data, callbacks)
    description["ranks"] = trainer.world_size
    if trainer.world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"-m with {trainer.world_size} devices a run is not possible: each rank would begin a sweep of its own; "
            "take trainer.devices=1, or start the runs one by one."
        )
    if resumed is not None:
        rehearse(resumed.payload, resumed.file, data, module, trainer)
        refuse_if_complete(run_dir, trainer, resumed.payload)
        changed = look_at_changes(cfg, trainer.world_size, resumed)
        data.load_state_dict(resumed.payload[type(data).__qualname__])  # refuses other text
        if runs.is_first_rank():
            for sentence in runs.rewind(run_dir, resumed.payload["global_step"]):
                screen.say(sentence)
            last = run_dir / "checkpoints" / "last.ckpt"
            if resumed.file != last.resolve():  # it is later than that, or was asked for
                with whole(last, binary=True, durable=True) as target, resumed.file.open("rb") as source:
                    shutil.copyfileobj(source, target)
            # What was changed now holds for the next time, except that one knew better.
            lasting = OmegaConf.merge(cfg, {"force": False})
            replace_text(run_dir / ".hydra" / "config.yaml", OmegaConf.to_yaml(lasting))
            runs.remember_resume(run_dir, resumed.payload["global_step"], cli.typed(HydraConfig.get()), changed)
    trainer.loggers = build_loggers(cfg, module.net.config)
    return Session(data, module, trainer)


def look_at_changes(cfg: DictConfig, ranks: int, resumed: Resumed) -> dict[str, list[Any]]:
    """Show what differs from the checkpoint.

    Returns:
        of each setting that makes it another experiment, what it was and what it is.

    Raises:
        UserError: a setting is changed that the checkpoint's weights depend on, and ``force`` is not set.
    """
    run = resumed.payload["run"]
    found = changes(run["config"] | {"ranks": run.get("ranks", ranks)}, plain(cfg) | {"ranks": ranks})
    by_kind = {
        kind: [change for change in found if change.kind == kind] for kind in ("wrong", "experiment", "harmless")
    }
    if by_kind["wrong"] and not cfg.get("force"):
        raise UserError(
            f"{resumed.file} was trained with other settings ({'; '.join(map(str, by_kind['wrong']))}), and its "
            "weights or its place in the data mean nothing with these; leave them out, or add force=true if you know "
            "better."
        )
    if runs.is_first_rank():
        screen.changes(
            {
                "against the checkpoint (force=true)": by_kind["wrong"],
                "makes it another experiment": by_kind["experiment"],
                "harmless": [c for c in by_kind["harmless"] if c.key not in ("run_dir", "resume", "force")],
            }
        )
    return {change.key: [change.before, change.now] for kind in ("wrong", "experiment") for change in by_kind[kind]}


def refuse_if_complete(run_dir: Path, trainer: L.Trainer, payload: Payload) -> None:
    """Say so if the run has no step left to do. One that was killed between its last step and its result still lacks
    that, and is let through.

    Raises:
        UserError: its steps are done or its time is up.
    """
    if runs.read_status(run_dir) != "completed":
        return
    done = payload["global_step"]
    if done >= trainer.max_steps:
        raise UserError(
            f"{run_dir} is complete: it has done {done} of {trainer.max_steps} steps; raise trainer.max_epochs or "
            "trainer.max_steps to train it further."
        )
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and timer._duration:
            spent = payload["callbacks"].get(timer.state_key, {}).get("time_elapsed", {}).get("train", 0.0)
            if spent >= timer._duration:
                raise UserError(
                    f"{run_dir} is complete: its trainer.max_time of {timer._duration:.0f} s is spent; raise "
                    "trainer.max_time to train it further."
                )
