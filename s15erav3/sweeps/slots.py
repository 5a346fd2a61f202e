"""The slots in which jobs run in parallel: one or more on each GPU, or shares of the CPU's cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from s15erav3.cli.schema.check import check_part
from s15erav3.cli.schema.train import GpuQueue
from s15erav3.cores import usable_cores
from s15erav3.errors import UserError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
KEY = "hydra.launcher"


class Slot(NamedTuple):
    """A slot for one job at a time."""

    name: str
    threads: int
    environment: dict[str, str]
    """Environment variables of a job in this slot, which override this process's own."""


def make_slots(gpus: Any, jobs_per_gpu: Any, cpu_slots: Any, threads_per_job: Any) -> list[Slot]:
    """Return all slots, ordered so that the first jobs are spread over the GPUs.

    Args:
        gpus: ``auto``, a count, or a list of indices or UUIDs as in CUDA_VISIBLE_DEVICES.
        jobs_per_gpu: slots on each GPU.
        cpu_slots: ``auto`` or the number of slots without a GPU.
        threads_per_job: ``auto`` or a number.

    Raises:
        UserError: a setting is out of range.
    """
    given = {"jobs_per_gpu": jobs_per_gpu, "cpu_slots": cpu_slots, "threads_per_job": threads_per_job}
    check_part(KEY, given, GpuQueue)
    cores = usable_cores()
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
    """Return the GPUs that ``gpus`` selects, in the notation of CUDA_VISIBLE_DEVICES.

    Args:
        visible: returns the GPUs that this process sees; not called for a list, which is taken as given.

    Raises:
        UserError: it is of no supported kind, names a GPU twice, or asks for more than there are.
    """
    if wanted == "auto":
        return list(visible())
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0:
        found = list(visible()) if wanted else []
        if wanted > len(found):
            raise UserError(
                f"{KEY}.gpus={wanted}, but {len(found)} are visible here; use auto, or as many as there are."
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
    """Return the GPUs available to this process, by index or as in CUDA_VISIBLE_DEVICES; none is initialised."""
    import torch

    count = torch.cuda.device_count()  # queries the driver without creating a context
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] or [str(number) for number in range(count)]
