"""What ``cuda_graphs=true`` cannot record."""

from __future__ import annotations

import lightning as L
import torch

from s15erav3.errors import UserError
from s15erav3.model import ModelConfig
from s15erav3.training.hardware import multiplies_experts_at_once


def refuse_unrecordable(trainer: L.Trainer, config: ModelConfig) -> None:
    """Refuse runs whose steps are no fixed sequence of kernels on one GPU.

    Raises:
        UserError: there is no GPU or several ranks, or the host has to wait for the loads of the experts.
    """
    device = trainer.strategy.root_device
    if device.type != "cuda":
        raise UserError("cuda_graphs=true needs a GPU, and this run uses the CPU; leave it out.")
    if trainer.world_size > 1:
        raise UserError(
            f"cuda_graphs=true works on one GPU, and this run has {trainer.world_size} ranks; leave it out, or set "
            "trainer.devices=1."
        )
    if config.num_moe_layers and config.n_routed_experts:
        bf16, capability = trainer.precision == "bf16-mixed", torch.cuda.get_device_capability(device)
        if not multiplies_experts_at_once(capability, bf16):
            raise UserError(
                "cuda_graphs=true needs trainer.precision=bf16-mixed and a GPU of compute capability 9 or 10, which "
                f"multiply all experts in one kernel, found {trainer.precision} and {capability[0]}.{capability[1]}; "
                "leave it out, or use experts=dense balancing=none."
            )
