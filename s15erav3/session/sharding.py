"""Sharded strategies by the names of ``trainer.strategy``, and what they do not support."""

from __future__ import annotations

from importlib.util import find_spec

from omegaconf import DictConfig

from s15erav3.cli.schema.rules import SHARDED
from s15erav3.errors import UserError
from s15erav3.model import ModelConfig
from s15erav3.training.module import LanguageModule


def is_sharded(cfg: DictConfig) -> bool:
    """Whether the config asks for a sharded strategy."""
    return cfg.trainer.strategy in SHARDED


def writes_parts(cfg: DictConfig) -> bool:
    """Whether each rank of a sharded strategy writes its part of a checkpoint."""
    return bool(cfg.callbacks.checkpoint.get("sharded", False))  # missing in older runs


def refuse_unshardable(cfg: DictConfig, module: LanguageModule, ranks: int) -> None:
    """Refuse what a sharded strategy cannot train.

    Args:
        ranks: processes of the run, over all nodes.

    Raises:
        UserError: the number of ranks or another setting does not fit.
    """
    name, config, replicas = cfg.trainer.strategy, module.net.config, cfg.trainer.get("replicas", 1)
    if ranks == 1:
        raise UserError(
            f"trainer.strategy={name} needs at least 2 ranks to divide the model over, found 1; set "
            "trainer.devices=2 or more, or trainer.strategy=auto."
        )
    if ranks % replicas or ranks == replicas:
        raise UserError(
            f"trainer.replicas={replicas} must divide the number of ranks, {ranks}, into copies of at least 2 ranks; "
            "set another number of copies or of devices, or use trainer=ddp."
        )
    if cfg.compile:
        raise UserError(
            f"compile=true is not supported with trainer.strategy={name}; leave it out, or use trainer=ddp."
        )
    if readers := [type(part).__name__ for part in module.balancer.parts() if part.reads_weights]:
        raise UserError(
            f"balancing by {readers[0]} reads weights that trainer.strategy={name} divides over ranks; use "
            "trainer=ddp, or another one."
        )
    if writes_parts(cfg) and find_spec("safetensors") is None:
        raise UserError(
            "callbacks.checkpoint.sharded=true needs the package safetensors; pip install 's15erav3[hf]', or leave it "
            "out."
        )
    if name == "expert_parallel":
        refuse_uneven(config, ranks // replicas)


def refuse_uneven(config: ModelConfig, ranks: int) -> None:
    """Require that every rank gets as many experts.

    Args:
        ranks: of one copy of the model.

    Raises:
        UserError: there are no experts, or their number is not a multiple of ``ranks``.
    """
    experts = config.n_routed_experts if config.num_moe_layers else 0
    if not experts:
        raise UserError("trainer.strategy=expert_parallel needs experts, and this model has none; use trainer=fsdp.")
    if experts % ranks:
        raise UserError(
            f"experts.n_routed_experts={experts} must be a multiple of the number of ranks of a copy, {ranks}, "
            "with trainer.strategy=expert_parallel; change trainer.devices, trainer.replicas or the number of experts, "
            "or use trainer=fsdp."
        )
