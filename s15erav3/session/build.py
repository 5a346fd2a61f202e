"""From a composed config to the parts of a run: data, module, callbacks, loggers, Trainer."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from s15erav3.balancing import AddOns, Combined
from s15erav3.callbacks.best_checkpoint import BestCheckpoint
from s15erav3.callbacks.heartbeat import Heartbeat
from s15erav3.callbacks.last_checkpoint import LastCheckpoint
from s15erav3.callbacks.run_state import RunState
from s15erav3.cli.overrides import literal
from s15erav3.cli.settings import LARGEST
from s15erav3.cli.trust import FOLDERS, check_targets
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.device import choose_accelerator, choose_precision, refuse_if_too_large
from s15erav3.errors import UserError, check_number, one_line
from s15erav3.files import at_home
from s15erav3.loggers.closing import opened
from s15erav3.model import ConfigError, ModelConfig, Transformer, count_parameters, routers
from s15erav3.runs.checkpoint import WholeFileIO
from s15erav3.training.hardware import has_fast_bf16
from s15erav3.training.module import LanguageModule
from s15erav3.training.mtp import MultiTokenLoss

OWN = {"callbacks", "logger", "plugins", "default_root_dir", "check_val_every_n_epoch", "num_sanity_val_steps"}
OWN |= {"use_distributed_sampler", "enable_model_summary", "enable_progress_bar", "enable_checkpointing", "barebones"}
OWN |= {"min_steps", "min_epochs"}
"""Arguments of Lightning's Trainer that are given here, or that would leave out what is."""


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain containers, resolved: what a checkpoint can hold."""
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def build_data(cfg: DictConfig, tokenizer: Tokenizer | None = None) -> CommentaryData:
    """The data module, tokenized, by ``tokenizer`` or the group of that name."""
    if cfg.data.get("path"):
        # Checkpoints remember the text: a run may be resumed or evaluated from another folder.
        cfg.data.path = literal(str(at_home(cfg.data.path).absolute()))
    settings = plain(cfg.data)
    check_number("data.batch_size", settings["batch_size"], at_least=1, whole=True)
    check_number("data.sequence_length", settings["sequence_length"], at_least=2, whole=True)
    check_number("model.max_position_embeddings", cfg.model.max_position_embeddings, at_least=1, whole=True)
    if settings["sequence_length"] > cfg.model.max_position_embeddings:
        raise UserError(
            f"data.sequence_length={settings['sequence_length']} exceeds model.max_position_embeddings="
            f"{cfg.model.max_position_embeddings}; lower the one or raise the other."
        )
    check_number("model.num_nextn_predict_layers", cfg.model.num_nextn_predict_layers, at_least=0, whole=True)
    if settings["sequence_length"] <= cfg.model.num_nextn_predict_layers:
        raise UserError(
            f"data.sequence_length={settings['sequence_length']} leaves nothing to predict ahead for model."
            f"num_nextn_predict_layers={cfg.model.num_nextn_predict_layers}; raise the one or lower the other."
        )
    settings["micro_batches"] = cfg.trainer.accumulate_grad_batches
    settings["vocab_size"] = cfg.tokenizer.vocab_size
    del settings["max_epochs"]  # the Trainer's
    return CommentaryData(tokenizer=tokenizer or cfg.tokenizer.name, seed=cfg.seed, **settings).prepare()


def model_config(cfg: DictConfig, vocab_size: int) -> ModelConfig:
    """The model's dimensions from the groups ``model`` and ``experts`` and the tokenizer's vocabulary.

    Raises:
        UserError: they contradict each other.
    """
    try:
        return ModelConfig.from_dict({**plain(cfg.model), **plain(cfg.experts), "vocab_size": vocab_size})
    except ConfigError as error:
        raise UserError(f"the groups model and experts do not fit: {error}.") from error


def build_balancer(settings: Mapping[Any, Any]) -> Combined:
    """The strategy of the group ``balancing`` and the add-ons beside it.

    Raises:
        UserError: a value is out of range.
    """
    names = inspect.signature(AddOns).parameters
    strategy = instantiate({key: value for key, value in settings.items() if key not in names})
    return Combined(strategy, AddOns(**{name: settings[name] for name in names if name in settings}))


def restore_balancer(config: Mapping[str, Any], net: Transformer, where: Path) -> Combined | None:
    """The strategy by which a net was balanced, without its state, attached to the net.

    Args:
        config: of the run, as its checkpoint remembers it; empty for a Hugging Face folder.
        where: the checkpoint, for messages.

    Returns:
        ``None`` for a net without experts or without a run.

    Raises:
        UserError: the strategy is not this program's, and the command line does not trust it.
    """
    if not config or not net.config.n_routed_experts:
        return None
    check_targets({"balancing": config["balancing"]}, where)
    balancer = build_balancer(config["balancing"])
    balancer.attach(routers(net))
    return balancer


def build_module(cfg: DictConfig, data: CommentaryData, device: str) -> LanguageModule:
    """Net, balancing, optimizer and schedule in their LightningModule."""
    config = model_config(cfg, data.tokenizer.n_vocab)
    refuse_if_too_large(count_parameters(config).total, device)
    net = Transformer(config)
    if cfg.compile:
        net.compile()
    optimizer = OmegaConf.merge(cfg.optimizer)
    if "bf16" in optimizer and optimizer.bf16 is None:
        optimizer.bf16 = has_fast_bf16(device)
    module = LanguageModule(
        net,
        build_balancer(cfg.balancing),
        optimizer=instantiate(optimizer),
        schedule=instantiate(cfg.schedule),
        multi_token_loss=MultiTokenLoss(**plain(cfg.mtp), end_of_text=data.tokenizer.end_of_text),
        byte_lengths=torch.from_numpy(data.tokenizer.byte_lengths),
        micro_batches=cfg.trainer.accumulate_grad_batches,
        gradient_clip=cfg.trainer.gradient_clip_val,
        loss_chunk=cfg.loss_chunk,
        skip_nonfinite=cfg.trainer.get("skip_nonfinite", 0),
    )
    try:
        module.make_optimizer(net)  # so that a bad setting is told before anything starts
    except TypeError as error:
        raise UserError(f"the group optimizer does not fit: {error}.") from error
    return module


def build_callbacks(cfg: DictConfig, run_dir: Path, description: dict[str, Any]) -> list[Callback]:
    """The group ``callbacks``, and those without which no run can be resumed or watched."""
    every, keep = cfg.callbacks.checkpoint.every_n_steps, cfg.callbacks.checkpoint.get("keep_every_n_steps")
    check_number("callbacks.checkpoint.every_n_steps", every, at_least=1, whole=True)
    if keep is not None:
        check_number("callbacks.checkpoint.keep_every_n_steps", keep, at_least=1, whole=True, hint=", or null for none")
    folder = run_dir / "checkpoints"
    named = {k: made(v) for k, v in cfg.callbacks.items() if v is not None and "_target_" in v}
    return [
        RunState(description),
        *named.values(),
        Heartbeat(run_dir),
        BestCheckpoint(folder / "best.ckpt", "val/bpb"),
        LastCheckpoint(folder / "last.ckpt", every, keep),
    ]


def made(settings: DictConfig) -> Any:
    """What a callback's or logger's settings describe. Hydra would take the ``${`` in a folder's name for an
    interpolation, as it resolves twice; a ``Path`` is left as it is."""
    folders = {k: Path(v) for k, v in plain(settings).items() if k in FOLDERS and isinstance(v, str) and "${" in v}
    return instantiate(settings, **folders)


def build_loggers(cfg: DictConfig, config: ModelConfig) -> list[Logger]:
    """The group ``logger``, each told the whole config and how large the model is."""
    counts = count_parameters(config)
    described = plain(cfg) | {"params": {"total": counts.total, "active": counts.active}}
    loggers: list[Logger] = []
    for settings in cfg.logger.values():
        loggers.append(made(settings))
        opened(loggers[-1])
        loggers[-1].log_hyperparams(described)
    return loggers


def total_steps(cfg: DictConfig, data: CommentaryData, world_size: int) -> int:
    """Optimizer steps of the whole training: ``max_steps`` or ``max_epochs``, whichever ends first.

    Raises:
        UserError: neither is given.
    """
    limits = []
    for name in ("max_steps", "max_epochs"):
        if cfg.trainer[name] is not None:
            check_number(f"trainer.{name}", cfg.trainer[name], at_least=-1, hint="; -1 or null for no limit")
            if -1 < cfg.trainer[name] <= 0:
                raise UserError(f"trainer.{name}={cfg.trainer[name]} must be above 0, or -1 or null for no limit.")
    if cfg.trainer.max_steps is not None and cfg.trainer.max_steps > 0:
        limits.append(cfg.trainer.max_steps)
    if cfg.trainer.max_epochs is not None and cfg.trainer.max_epochs > 0:
        samples = cfg.trainer.max_epochs * data.samples_per_epoch
        limits.append(max(1, math.floor(samples / (data.windows_per_step * world_size))))
    if not limits:
        raise UserError(
            f"trainer.max_steps={cfg.trainer.max_steps} and trainer.max_epochs={cfg.trainer.max_epochs}: at least one "
            "of them must be greater than 0."
        )
    return int(min(limits))


def build_trainer(cfg: DictConfig, run_dir: Path, data: CommentaryData, callbacks: list[Callback]) -> L.Trainer:
    """The Trainer, without loggers; accumulation and clipping are the module's, which optimizes by hand."""
    settings = instantiate(cfg.trainer, _convert_="all")
    del settings["accumulate_grad_batches"], settings["gradient_clip_val"], settings["max_epochs"]
    for name in ("skip_nonfinite", "rank_timeout"):  # the module's and the watch's; runs of before have none
        settings.pop(name, None)
    check_number("trainer.rank_timeout", cfg.trainer.get("rank_timeout", 600), above=0)
    if (limit := settings.get("limit_val_batches")) not in (None, 0):
        data.limit_validation(limit)  # of all ranks together, and Lightning would have it of each
        settings["limit_val_batches"] = None
    device = choose_accelerator(settings.pop("accelerator"))
    settings["precision"] = choose_precision(settings["precision"], device)
    del settings["max_steps"]  # set below, once the number of ranks is known
    if settings["strategy"] == "auto" and settings["devices"] not in (1, "1"):
        settings["strategy"] = DDPStrategy(broadcast_buffers=False)  # as in conf/trainer/ddp.yaml
    if (limit := settings.pop("max_time")) is not None:
        callbacks = [
            Timer(timedelta(seconds=max_seconds(limit))),
            *callbacks,
        ]  # before LastCheckpoint, which looks at should_stop
    check_number("trainer.val_check_interval", settings["val_check_interval"], at_least=1, whole=True)
    check_limits(settings)
    try:
        trainer = L.Trainer(
            accelerator=device,
            callbacks=callbacks,
            logger=False,
            plugins=[WholeFileIO()],
            default_root_dir=run_dir,
            max_steps=-1,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=any("ProgressBar" in {t.__name__ for t in type(c).__mro__} for c in callbacks),
            **settings,
        )
    except (TypeError, ValueError, L.fabric.utilities.exceptions.MisconfigurationException) as error:
        raise UserError(f"the group trainer does not fit: {one_line(error)}") from error
    trainer.fit_loop.epoch_loop.max_steps = total_steps(cfg, data, trainer.world_size)
    return trainer


def check_limits(settings: dict[str, Any]) -> None:
    """Refuse those settings of Lightning's own, added by ``+trainer.``, with which nothing would be trained or saved.

    Raises:
        UserError: with the first of them.
    """
    for name in sorted(OWN & settings.keys()):
        raise UserError(f"trainer.{name}={settings[name]} is this program's to decide; leave it out.")
    if settings.pop("fast_dev_run", False):
        raise UserError("trainer.fast_dev_run saves and logs nothing; take trainer.max_steps=1 for a short run.")
    for name, least in (("limit_train_batches", 1), ("limit_val_batches", 0), ("overfit_batches", 0)):
        if isinstance(value := settings.get(name), float) and name == "limit_val_batches":
            check_number(f"trainer.{name}", value, at_least=0, at_most=1)  # a share of them
        elif value is not None and not (isinstance(value, float) and value == 1):
            check_number(f"trainer.{name}", value, at_least=least, at_most=LARGEST, whole=True)


def max_seconds(limit: Any) -> float:
    """``trainer.max_time`` in seconds: a number of them, ``days:hours:minutes:seconds``, or ``{minutes: 10}``.

    Raises:
        UserError: it is none of these, or no time at all.
    """
    seconds = limit
    try:
        if isinstance(limit, str) and re.fullmatch(r"\d+:\d+:\d+:\d+", limit):
            days, hours, minutes, rest = map(int, limit.split(":"))
            seconds = timedelta(days, rest, hours=hours, minutes=minutes).total_seconds()
        elif isinstance(limit, dict):
            seconds = timedelta(**limit).total_seconds()
        check_number("trainer.max_time", seconds, at_least=1e-6, at_most=timedelta.max.total_seconds())
    except (UserError, TypeError, OverflowError) as error:
        raise UserError(
            f"trainer.max_time={limit!r} must be a time above 0: seconds, as in 600, or days:hours:minutes:seconds, as "
            "in '00:00:10:00'."
        ) from error
    return float(seconds)
