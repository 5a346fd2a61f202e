"""Build all parts of a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from s15erav3.cli.schema.rules import sequences_fit
from s15erav3.cli.settings import check_settings
from s15erav3.data.datamodule import CommentaryData
from s15erav3.device import choose_accelerator
from s15erav3.errors import UserError
from s15erav3.files import replace_text
from s15erav3.loading import adopt
from s15erav3.ranks import is_first_rank
from s15erav3.runs.checkpoint import load_tokenizer, load_weights
from s15erav3.session.build import build_callbacks, build_data, build_loggers, build_module, build_trainer, plain
from s15erav3.session.recording import refuse_unrecordable
from s15erav3.session.resume import Resumed, take_over
from s15erav3.session.sharding import is_sharded, refuse_unshardable
from s15erav3.session.threads import Shape, Threads, settle
from s15erav3.training.module import LanguageModule


class Session(NamedTuple):
    """All parts of a run that is ready to start."""

    data: CommentaryData
    module: LanguageModule
    trainer: L.Trainer
    threads: Threads


def prepare(cfg: DictConfig, run_dir: Path, resumed: Resumed | None, more: Sequence[L.Callback] = ()) -> Session:
    """Build all parts of a run; nothing is trained or logged yet.

    Args:
        more: callbacks in addition to those of the config.

    Raises:
        UserError: a part cannot be built, or the checkpoint does not fit.
    """
    check_settings(cfg, "train")
    for name in ("resume", "sweep.resume"):
        if resumed is None and (place := OmegaConf.select(cfg, name)):
            raise UserError(
                f"{name}={place} is set in a config file, where it has no effect; remove it there, and type "
                f"train {name}={shlex.quote(str(place))}."
            )
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    origin, tokenizer = None, None
    if cfg.init_from and resumed is None:
        origin = adopt(cfg)
        tokenizer = origin.tokenizer
        if is_first_rank() and (run_dir / ".hydra").is_dir():
            # Include the settings taken from init_from, so that the run can be resumed.
            replace_text(run_dir / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg))
    elif resumed is not None and cfg.init_from:
        tokenizer = load_tokenizer(resumed.payload, resumed.file)
    if cfg.init_from:
        sequences_fit(cfg)
    data = build_data(cfg, tokenizer)
    device = choose_accelerator(cfg.trainer.accelerator)
    module = build_module(cfg, data, device)
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
    if is_sharded(cfg):
        refuse_unshardable(cfg, module, trainer.world_size)
    if cfg.get("cuda_graphs", False):  # missing in older runs
        refuse_unrecordable(trainer, module.net.config)
    earlier = resumed.payload["run"].get("threads") if resumed is not None else None
    shape = Shape(module.net.config, data.batch_size, data.length, str(trainer.precision), cfg.loss_chunk)
    threads = settle(
        cfg.trainer.get("threads", "auto"), shape, device=device, ranks=trainer.num_devices, earlier=earlier
    )
    description |= {"ranks": trainer.world_size, "threads": threads.number}
    if trainer.world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"-m cannot run jobs on {trainer.world_size} devices, as each rank would start its own sweep; set "
            "trainer.devices=1, or start the runs one by one."
        )
    if resumed is not None:
        take_over(cfg, run_dir, resumed, data, module, trainer, threads.number)
    trainer.loggers = build_loggers(cfg, module.net.config)
    return Session(data, module, trainer, threads)
