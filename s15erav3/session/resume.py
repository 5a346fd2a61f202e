"""Resume a run: load its saved config and checkpoint, apply changes, and roll its folder back to the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import lightning as L
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from s15erav3.cli import hydra_setup, trust
from s15erav3.cli.flags import Line
from s15erav3.cli.overrides import given, key_of, quote
from s15erav3.data.datamodule import CommentaryData
from s15erav3.errors import UserError
from s15erav3.files import replace_text
from s15erav3.ranks import is_first_rank
from s15erav3.runs.checkpoint import Payload
from s15erav3.runs.identity import changes
from s15erav3.runs.parts import copy_checkpoint
from s15erav3.runs.result import read_status
from s15erav3.runs.rewind import remember_resume, resume_point, rewind
from s15erav3.session.banner import show_changes
from s15erav3.session.build import plain
from s15erav3.session.rehearsal import rehearse
from s15erav3.terminal import say
from s15erav3.training.hosts import TimeLimit
from s15erav3.training.module import LanguageModule

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
"""Groups of conf/train.yaml that form the config of a run."""

SINCE: dict[str, Any] = {
    "force": False,
    "trainer": {"skip_nonfinite": 0, "rank_timeout": 600, "threads": "auto", "num_nodes": 1, "replicas": 1},
}
"""Settings missing from the configs of older runs, with the values those runs were trained with."""


class Resumed(NamedTuple):
    """The checkpoint from which a run is resumed."""

    file: Path
    payload: Payload


Train = Callable[[DictConfig, Resumed], dict[str, Any]]


def resume(wanted: str, line: Line, train: Train) -> None:
    """Compose the run's saved config with the new overrides, and continue in its folder.

    Args:
        wanted: the value of ``resume=``.
        line: the rest of the command line.
        train: trains with a config, from a checkpoint.

    Raises:
        UserError: there is nothing to resume, or the overrides or saved files do not fit.
    """
    keys = [key_of(word) for word in line.words]
    if line.multirun or "sweep.resume" in keys:
        raise UserError("resume= continues one run; leave out -m, or resume a whole sweep with sweep.resume=FOLDER.")
    if "init_from" in keys:
        raise UserError("resume= uses the run's own weights, so init_from has no effect; leave one of them out.")
    for word in line.words:
        if (group := key_of(word).partition("@")[0]) in GROUPS:
            raise UserError(
                f"{word} cannot be chosen for a resumed run, which keeps its own; change single settings "
                f"({group}.key=value), or start a new run."
            )
    run_dir, file, payload = resume_point(wanted, Path("outputs"), Path("multirun"))
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
    with TemporaryDirectory() as checked:  # Hydra composes the checked config only, not other files in its folder
        OmegaConf.save(config, Path(checked) / "config.yaml")
        hydra_setup.run(
            "train",
            lambda cfg: go_on(cfg, run_dir, Resumed(file, payload), train),
            settings,
            conf=Path(checked),
            name="config",
        )


def go_on(cfg: DictConfig, run_dir: Path, resumed: Resumed, train: Train) -> dict[str, Any]:
    """Continue training with a config from the run's folder.

    Raises:
        UserError: the config names code outside this program that the command line does not trust.
    """
    trust.keep_inside(cfg, run_dir)
    trust.check_targets(plain(cfg), run_dir / ".hydra" / "config.yaml")
    return train(cfg, resumed)


def take_over(
    cfg: DictConfig,
    run_dir: Path,
    resumed: Resumed,
    data: CommentaryData,
    module: LanguageModule,
    trainer: L.Trainer,
    threads: int,
) -> None:
    """Check that the checkpoint fits the built parts, then roll the run's folder back to it.

    Raises:
        UserError: it does not fit, or the run is complete; nothing was changed.
    """
    rehearse(resumed.payload, resumed.file, data, module, trainer)
    refuse_if_complete(run_dir, trainer, resumed.payload)
    changed = look_at_changes(cfg, {"ranks": trainer.world_size, "threads": threads}, resumed)
    data.load_state_dict(resumed.payload[type(data).__qualname__])  # raises if the text differs
    if is_first_rank():
        for sentence in rewind(run_dir, resumed.payload["global_step"]):
            say(sentence)
        last = run_dir / "checkpoints" / "last.ckpt"
        if resumed.file != last.resolve():  # it is newer than last, or was requested
            copy_checkpoint(resumed.file, last)
        # Changes persist for later resumes, except force.
        lasting = OmegaConf.merge(cfg, {"force": False})
        replace_text(run_dir / ".hydra" / "config.yaml", OmegaConf.to_yaml(lasting))
        remember_resume(run_dir, resumed.payload["global_step"], hydra_setup.typed(HydraConfig.get()), changed)


def look_at_changes(cfg: DictConfig, machine: dict[str, int], resumed: Resumed) -> dict[str, list[Any]]:
    """Show how the config differs from the checkpoint.

    Args:
        machine: number of ranks and of each one's threads, which are no settings of the config.

    Returns:
        The old and new value of each changed setting that makes this a different experiment.

    Raises:
        UserError: a setting that the checkpoint's weights depend on is changed, and ``force`` is not set.
    """
    run = resumed.payload["run"]
    before = {name: run.get(name, now) for name, now in machine.items()}  # checkpoints of earlier versions lack some
    found = changes(run["config"] | before, plain(cfg) | machine)
    by_kind = {
        kind: [change for change in found if change.kind == kind] for kind in ("wrong", "experiment", "harmless")
    }
    if by_kind["wrong"] and not cfg.get("force"):
        raise UserError(
            f"{resumed.file} was trained with other settings ({'; '.join(map(str, by_kind['wrong']))}), and its "
            "weights or its position in the data do not fit these; leave them out, or add force=true to resume all the "
            "same."
        )
    if is_first_rank():
        show_changes(
            {
                "against the checkpoint (force=true)": by_kind["wrong"],
                "makes it another experiment": by_kind["experiment"],
                "harmless": [c for c in by_kind["harmless"] if c.key not in ("run_dir", "resume", "force")],
            }
        )
    return {change.key: [change.before, change.now] for kind in ("wrong", "experiment") for change in by_kind[kind]}


def refuse_if_complete(run_dir: Path, trainer: L.Trainer, payload: Payload) -> None:
    """Refuse a run that has no step left to do.

    A run that was killed between its last step and its result is accepted, since its result is still missing.

    Raises:
        UserError: its steps are done or its time limit is reached.
    """
    if read_status(run_dir) != "completed":
        return
    done = payload["global_step"]
    if done >= trainer.max_steps:
        raise UserError(
            f"{run_dir} is complete: it has done {done} of {trainer.max_steps} steps; raise trainer.max_epochs or "
            "trainer.max_steps to train it further."
        )
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, TimeLimit):
            spent = payload["callbacks"].get(timer.state_key, {}).get("time_elapsed", {}).get("train", 0.0)
            if spent >= timer.limit:
                raise UserError(
                    f"{run_dir} is complete: its trainer.max_time of {timer.limit:.0f} s is spent; raise "
                    "trainer.max_time to train it further."
                )
