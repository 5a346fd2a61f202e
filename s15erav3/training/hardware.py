"""Hardware capabilities: names, precision, peak FLOP/s, and what threads are worth."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

PEAKS: dict[str, tuple[float, float]] = {
    "B200": (2250, 75),
    "H200 NVL": (835.5, 60),
    "H200": (989.4, 66.9),
    "H100 NVL": (835.5, 60),
    "H100 PCIe": (756, 51.2),
    "H100": (989.4, 66.9),
    "A100": (312, 19.5),
    "A40": (149.7, 37.4),
    "A30": (165, 10.3),
    "A10": (125, 31.2),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.2, 35.6),
}
"""TFLOP/s in bf16 without sparsity, added up in fp32, and in fp32 without TF32: NVIDIA's data sheets."""


OTHER = re.compile(r"MIG|Laptop|Ti|D|SUPER|\d+[ABCQ]")
"""Words in the name of a part of a GPU (MIG, vGPU), or of another model than that without the word."""


def cpu_name() -> str:
    """Human-readable name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_fast_bf16(device: str) -> bool:
    """Whether the hardware supports bf16 products natively: GPUs from Ampere on, CPUs with AMX or AVX512-BF16.

    Elsewhere bf16 is emulated and can be a hundred times slower than fp32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = torch.cpu
    return bool(cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported())


def multiplies_experts_at_once(capability: tuple[int, int], bf16: bool) -> bool:
    """Whether a GPU of this compute capability multiplies all experts in one kernel, without the host.

    Others, and all in fp32, multiply expert by expert, for which the host waits for the loads (pytorch issue 186620).
    """
    return bf16 and capability[0] in (9, 10)


def peak_flops(device: torch.device, bf16: bool) -> float | None:
    """Peak floating-point operations per second, the reference for MFU.

    For a GPU the published dense peak, or ``None`` if it is not listed. For a CPU the best of a few timed
    products of 1024-wide matrices, with the current number of threads; measured once by a process.
    """
    if device.type == "cuda":
        return listed_flops(torch.cuda.get_device_name(device), bf16)
    return _measured_flops(bf16, torch.get_num_threads())


@cache
def _measured_flops(bf16: bool, threads: int) -> float:
    numbers = torch.rand(2, 1024, 1024, generator=torch.Generator())  # the run's own are not disturbed
    left, right = numbers.to(torch.bfloat16 if bf16 else torch.float32)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def listed_flops(card: str, bf16: bool) -> float | None:
    """Peak FLOP/s of a whole GPU by its name, as "NVIDIA H100 80GB HBM3"; ``None`` if it is not in :data:`PEAKS`."""
    words = set(card.replace("-", " ").split())
    if any(OTHER.fullmatch(word) for word in words):
        return None
    known = (peaks for name, peaks in PEAKS.items() if words >= set(name.split()))
    found = next(known, None)
    return found and found[0 if bf16 else 1] * 1e12


def seconds_by_threads(
    work: Callable[[], object], candidates: Sequence[int], rounds: int = 3, limit: float = 20.0
) -> dict[int, float]:
    """Shortest wall time in seconds of ``work`` with each number of torch's threads.

    The candidates take turns, so that other processes disturb all of them alike. torch keeps its number of threads.

    Args:
        work: called once for each candidate and round.
        rounds: the most rounds; the first one also starts the threads.
        limit: seconds after which no further round begins.
    """
    before, began = torch.get_num_threads(), time.perf_counter()
    best = dict.fromkeys(candidates, float("inf"))
    try:
        for _ in range(rounds):
            for number in candidates:
                torch.set_num_threads(number)
                start = time.perf_counter()
                work()
                best[number] = min(best[number], time.perf_counter() - start)
            if time.perf_counter() - began > limit:
                break
    finally:
        torch.set_num_threads(before)
    return best
