"""Choose the device and precision for ``auto``."""

from __future__ import annotations

import psutil
import torch

from s15erav3.errors import UserError
from s15erav3.training.hardware import has_fast_bf16


def choose_accelerator(wanted: str) -> str:
    """Map ``auto``, ``gpu``, ``cuda`` or ``cpu`` to ``cuda`` or ``cpu``.

    Raises:
        UserError: there is no GPU.
    """
    there = torch.cuda.is_available()
    if wanted in ("gpu", "cuda") and not there:
        raise UserError(f"trainer.accelerator={wanted}, but torch sees no CUDA device; use trainer=auto or cpu.")
    return "cuda" if there and wanted != "cpu" else "cpu"


def choose_precision(wanted: str, device: str) -> str:
    """Resolve ``auto`` to bf16 autocast on GPUs with native bf16, and to fp32 elsewhere, including CPUs.

    fp16 is not offered: its loss scaling skips optimizer steps, and biases are updated once per step.
    """
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if device == "cuda" and has_fast_bf16(device) else "32-true"


def refuse_if_too_large(parameters: int, device: str) -> None:
    """Refuse a model that cannot fit: weights, gradients and two optimizer moments take 16 bytes per parameter.

    Raises:
        UserError: that exceeds the total memory of the device.
    """
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = psutil.virtual_memory().total
    if 16 * parameters > memory:
        raise UserError(
            f"the model's {parameters:,} parameters take {16 * parameters / 1e9:,.0f} GB to train and this machine has "
            f"{memory / 1e9:,.0f} GB; use a smaller model or fewer experts."
        )
