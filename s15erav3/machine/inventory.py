"""Versions, processors and memory of this machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch

from s15erav3 import __version__
from s15erav3.cores import usable_cores
from s15erav3.session.banner import device_name
from s15erav3.training.hardware import has_fast_bf16

PACKAGES = ("lightning", "hydra-core", "numpy", "triton", "transformers", "tokenizers", "tiktoken", "wandb", "optuna")


def inventory() -> dict[str, Any]:
    """What is installed, and what it runs on; a package or device that is absent is ``None``."""
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    return {
        "s15erav3": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "cuda_build": torch.version.cuda,
        "packages": {name: _installed(name) for name in PACKAGES},
        "cpu": device_name(torch.device("cpu")),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "environment": threads,
        "cpu_bf16": has_fast_bf16("cpu"),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": gpu() if torch.cuda.is_available() else None,
    }


def gpu() -> dict[str, Any]:
    """The first GPU, and its driver."""
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "count": torch.cuda.device_count(),
        "capability": f"{found.major}.{found.minor}",
        "memory_gb": round(found.total_memory / 1e9, 1),
        "multiprocessors": found.multi_processor_count,
        "driver": _driver(),
        "bf16": has_fast_bf16("cuda"),
        # Elsewhere torch multiplies expert by expert, and waits for their loads (pytorch issue 186620).
        "experts_in_one_kernel": found.major in (9, 10),
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
