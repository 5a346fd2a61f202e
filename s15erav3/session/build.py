"""Build the parts of a run from a composed config: data, module, callbacks, loggers, Trainer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from s15erav3.balancing import AddOns, Combined
from s15erav3.callbacks.best_checkpoint import BestCheckpoint
from s15erav3.callbacks.heartbeat import Heartbeat
from s15erav3.callbacks.last_checkpoint import LastCheckpoint
from s15erav3.callbacks.run_state import RunState
from s15erav3.cli.overrides import literal
from s15erav3.cli.schema.trainer import seconds
from s15erav3.cli.trust import FOLDERS, check_targets
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.device import choose_accelerator, choose_precision, refuse_if_too_large
from s15erav3.errors import UserError, one_line
from s15erav3.files import at_home
from s15erav3.loggers.closing import opened
from s15erav3.model import ConfigError, ModelConfig, Transformer, count_parameters, routers
from s15erav3.ranks.outside import check_ranks
from s15erav3.runs.checkpoint_io import WholeFileIO
from s15erav3.session.compiling import compile_blocks
from s15erav3.session.sharding import is_sharded, writes_parts
from s15erav3.training.hardware import has_fast_bf16
from s15erav3.training.hosts import TimeLimit
from s15erav3.training.module import LanguageModule
from s15erav3.training.mtp import MultiTokenLoss
from s15erav3.training.sharded import ShardedStrategy


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain containers, which a checkpoint can hold."""
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def build_data(cfg: DictConfig, tokenizer: Tokenizer | None = None) -> CommentaryData:
    """Build and tokenize the data module, with ``tokenizer`` or the config group of that name."""
    if cfg.data.get("path"):
        # Checkpoints store this path. It is absolute because a run may be resumed or evaluated from another folder.
        cfg.data.path = literal(str(at_home(cfg.data.path).absolute()))
    settings = plain(cfg.data)
    settings["micro_batches"] = cfg.trainer.accumulate_grad_batches
    settings["vocab_size"] = cfg.tokenizer.vocab_size
    del settings["max_epochs"]  # the Trainer's
    return CommentaryData(tokenizer=tokenizer or cfg.tokenizer.name, seed=cfg.seed, **settings).prepare()


def model_config(cfg: DictConfig, vocab_size: int) -> ModelConfig:
    """Model dimensions from the groups ``model`` and ``experts`` and the tokenizer's vocabulary.

    Raises:
        UserError: the dimensions are inconsistent.
    """
    try:
        return ModelConfig.from_dict({**plain(cfg.model), **plain(cfg.experts), "vocab_size": vocab_size})
    except ConfigError as error:
        raise UserError(f"the groups model and experts do not fit: {error}.") from error


def build_balancer(settings: Mapping[Any, Any]) -> Combined:
    """Build the strategy of the group ``balancing``, its further losses and add-ons.

    Raises:
        UserError: a value is out of range.
    """
    names = inspect.signature(AddOns).parameters
    strategy = instantiate({key: value for key, value in settings.items() if key not in (*names, "loss")})
    losses = {str(name): instantiate(loss) for name, loss in (settings.get("loss") or {}).items()}
    return Combined(strategy, AddOns(**{name: settings[name] for name in names if name in settings}), losses)


def restore_balancer(config: Mapping[str, Any], net: Transformer, where: Path) -> Combined | None:
    """Rebuild the balancing strategy of a net, without its state, and attach it to the net.

    Args:
        config: the run's config as stored in its checkpoint; empty for a Hugging Face folder.
        where: the checkpoint, for messages.

    Returns:
        The strategy; ``None`` for a net without experts or without a run.

    Raises:
        UserError: the strategy is not part of this program, and the command line does not trust it.
    """
    if not config or not net.config.n_routed_experts:
        return None
    check_targets({"balancing": config["balancing"]}, where)
    balancer = build_balancer(config["balancing"])
    balancer.attach(routers(net))
    return balancer


def build_module(cfg: DictConfig, data: CommentaryData, device: str) -> LanguageModule:
    """Build the LightningModule with net, balancing, optimizer and schedule."""
    config = model_config(cfg, data.tokenizer.n_vocab)
    # A sharded model is built in the host's memory, and no device has all of it.
    refuse_if_too_large(count_parameters(config).total, "cpu" if is_sharded(cfg) else device)
    net = Transformer(config)
    net.recompute(cfg.get("activation_checkpointing", "none"))
    if cfg.compile:
        compile_blocks(net, device)
    optimizer = OmegaConf.merge(cfg.optimizer)
    if "bf16" in optimizer and optimizer.bf16 is None:
        optimizer.bf16 = has_fast_bf16(device)
    balancer = build_balancer(cfg.balancing)
    balancer.prepare(lambda: np.bincount(data.token_files.part("train"), minlength=config.vocab_size))
    module = LanguageModule(
        net,
        balancer,
        optimizer=instantiate(optimizer),
        schedule=instantiate(cfg.schedule),
        multi_token_loss=MultiTokenLoss(**plain(cfg.mtp), end_of_text=data.tokenizer.end_of_text),
        byte_lengths=torch.from_numpy(data.tokenizer.byte_lengths),
        micro_batches=cfg.trainer.accumulate_grad_batches,
        gradient_clip=cfg.trainer.gradient_clip_val,
        loss_chunk=loss_chunk(cfg),
        compiled_loss=cfg.compile,
        cuda_graphs=cfg.get("cuda_graphs", False),
        skip_nonfinite=cfg.trainer.get("skip_nonfinite", 0),
    )
    try:
        module.make_optimizer(net)  # report a bad setting before anything starts
    except TypeError as error:
        raise UserError(f"the group optimizer does not fit: {error}.") from error
    return module


def loss_chunk(cfg: DictConfig) -> int:
    """Tokens of a chunk of the loss: ``rounding`` fewer than there would be. Other sums are rounded in other ways."""
    chunk, less = int(cfg.loss_chunk), int(cfg.get("rounding", 0))
    return max(1, min(chunk, cfg.data.batch_size * cfg.data.sequence_length) - less) if less else chunk


def build_callbacks(cfg: DictConfig, run_dir: Path, description: dict[str, Any]) -> list[Callback]:
    """Build the callbacks of the group ``callbacks``, and those needed to resume or monitor any run."""
    every, keep = cfg.callbacks.checkpoint.every_n_steps, cfg.callbacks.checkpoint.get("keep_every_n_steps")
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
    """Instantiate a callback or logger from its settings.

    Hydra resolves twice, so it would treat ``${`` in a folder name as an interpolation. A ``Path`` is not resolved.
    """
    folders = {k: Path(v) for k, v in plain(settings).items() if k in FOLDERS and isinstance(v, str) and "${" in v}
    return instantiate(settings, **folders)


def build_loggers(cfg: DictConfig, config: ModelConfig) -> list[Logger]:
    """Build the loggers of the group ``logger`` and log the whole config and the model size to each."""
    counts = count_parameters(config)
    described = plain(cfg) | {"params": {"total": counts.total, "active": counts.active}}
    loggers: list[Logger] = []
    for settings in cfg.logger.values():
        loggers.append(made(settings))
        opened(loggers[-1])
        loggers[-1].log_hyperparams(described)
    return loggers


def total_steps(cfg: DictConfig, data: CommentaryData, world_size: int) -> int:
    """Optimizer steps of the whole training: the smaller of ``max_steps`` and ``max_epochs``."""
    limits = []
    if cfg.trainer.max_steps is not None and cfg.trainer.max_steps > 0:
        limits.append(cfg.trainer.max_steps)
    if cfg.trainer.max_epochs is not None and cfg.trainer.max_epochs > 0:
        samples = cfg.trainer.max_epochs * data.samples_per_epoch
        limits.append(max(1, math.floor(samples / (data.windows_per_step * world_size))))
    return int(min(limits))


def build_trainer(cfg: DictConfig, run_dir: Path, data: CommentaryData, callbacks: list[Callback]) -> L.Trainer:
    """Build the Trainer, without loggers.

    Gradient accumulation and clipping are done by the module, which uses manual optimization.
    """
    settings = instantiate(cfg.trainer, _convert_="all")
    del settings["accumulate_grad_batches"], settings["gradient_clip_val"], settings["max_epochs"]
    for name in ("skip_nonfinite", "rank_timeout", "threads", "replicas"):  # not Lightning's; missing in older runs
        settings.pop(name, None)
    if (limit := settings.get("limit_val_batches")) not in (None, 0):
        data.limit_validation(limit)  # counts all ranks together; Lightning's limit applies per rank
        settings["limit_val_batches"] = None
    device = choose_accelerator(settings.pop("accelerator"))
    settings["precision"] = choose_precision(settings["precision"], device)
    del settings["max_steps"]  # set below, once the number of ranks is known
    if settings["strategy"] == "auto" and (settings["devices"] not in (1, "1") or settings.get("num_nodes", 1) > 1):
        settings["strategy"] = DDPStrategy(broadcast_buffers=False)  # as in conf/trainer/ddp.yaml
    elif is_sharded(cfg):
        settings["strategy"] = ShardedStrategy(
            expert_parallel=settings["strategy"] == "expert_parallel",
            replicas=cfg.trainer.get("replicas", 1),
            own_parts=writes_parts(cfg),
        )
        settings["inference_mode"] = False  # FSDP keeps what it gathers into, and training cannot use inference tensors
    settings.pop("fast_dev_run", None)  # false
    if (limit := settings.pop("max_time")) is not None:
        # Before LastCheckpoint, which reads should_stop.
        callbacks = [TimeLimit(seconds(limit)), *callbacks]
    try:
        trainer = L.Trainer(
            accelerator=device,
            callbacks=callbacks,
            logger=False,
            plugins=[WholeFileIO(background=device == "cuda")],
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
    check_ranks(trainer.num_nodes, trainer.num_devices)
    trainer.fit_loop.epoch_loop.max_steps = total_steps(cfg, data, trainer.world_size)
    return trainer
