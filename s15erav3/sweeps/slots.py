"""The places at which jobs run side by side: GPUs, each with one or more, or shares of the CPU's cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from s15erav3.cli.schema.check import check_part
from s15erav3.cli.schema.train import GpuQueue
from s15erav3.errors import UserError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
KEY = "hydra.launcher"


class Slot(NamedTuple):
    """A place for one job at a time."""

    name: str
    threads: int
    environment: dict[str, str]
    """What a job at this place sees in place of this program's variables."""


def make_slots(gpus: Any, jobs_per_gpu: Any, cpu_slots: Any, threads_per_job: Any) -> list[Slot]:
    """All places, so ordered that the first jobs are spread over the GPUs.

    Args:
        gpus: ``auto``, a number, or a list of numbers or UUIDs as CUDA_VISIBLE_DEVICES takes them.
        jobs_per_gpu: places on each GPU.
        cpu_slots: ``auto`` or the number of places where there is no GPU.
        threads_per_job: ``auto`` or a number.

    Raises:
        UserError: a setting is out of range.
    """
    given = {"jobs_per_gpu": jobs_per_gpu, "cpu_slots": cpu_slots, "threads_per_job": threads_per_job}
    check_part(KEY, given, GpuQueue)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = choose_gpus(gpus, visible_gpus)
    if devices:
        places = [device for _ in range(jobs_per_gpu) for device in devices]
        threads = max(1, cores // len(places)) if threads_per_job == "auto" else threads_per_job
        return [Slot(f"GPU {device}", threads, _environment(device, threads)) for device in places]
    threads = 1 if threads_per_job == "auto" else threads_per_job
    number = max(1, cores // threads) if cpu_slots == "auto" else cpu_slots
    if threads_per_job == "auto":
        threads = max(1, cores // number)
    return [Slot(f"CPU {place}", threads, _environment("", threads)) for place in range(number)]


def _environment(device: str, threads: int) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": device, **dict.fromkeys(THREADS, str(threads))}


def choose_gpus(wanted: Any, visible: Any) -> list[str]:
    """The GPUs that ``gpus`` means, as CUDA_VISIBLE_DEVICES names them.

    Args:
        visible: called for the GPUs that this program sees; a list is taken as given, without a look.

    Raises:
        UserError: it is none of the kinds, names a GPU twice, or asks for more than there are.
    """
    if wanted == "auto":
        return list(visible())
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0:
        found = list(visible()) if wanted else []
        if wanted > len(found):
            raise UserError(
                f"{KEY}.gpus={wanted}, but {len(found)} are visible here; take auto, or as many as there are."
            )
        return found[:wanted]
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        names = [str(name) for name in wanted]
        good = all(isinstance(n, str) or (type(n) is int and n >= 0) for n in wanted)
        if good and len(set(names)) == len(names) and all(names):
            return names
    raise UserError(
        f"{KEY}.gpus={wanted} must be auto, a number of GPUs, or a list of different ones such as [0,1]; jobs_per_gpu "
        "says how many jobs share one."
    )


def visible_gpus() -> list[str]:
    """The GPUs that this program may use, by number or as CUDA_VISIBLE_DEVICES has them; none is touched."""
    import torch

    count = torch.cuda.device_count()  # asks the driver, and makes no context
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] or [str(number) for number in range(count)]
