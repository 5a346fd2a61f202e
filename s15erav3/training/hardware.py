"""Hardware capabilities: precision and peak FLOP/s."""

from __future__ import annotations

import time

import torch


def has_fast_bf16(device: str) -> bool:
    """Whether the hardware supports bf16 products natively: GPUs from Ampere on, CPUs with AMX or AVX512-BF16.

    Elsewhere bf16 is emulated and can be a hundred times slower than fp32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = torch.cpu
    return bool(cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported())


def peak_flops(device: torch.device, bf16: bool) -> float | None:
    """Peak floating-point operations per second, the reference for MFU.

    For a GPU the published dense peak, or ``None`` if it is not listed. For a CPU the best of a few timed
    products of 1024-wide matrices, with the current number of threads.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    if device.type == "cuda":
        from lightning.fabric.utilities.throughput import get_available_flops  # slow import

        flops = get_available_flops(device, dtype)
        return None if flops is None else float(flops)
    left, right = torch.randn(2, 1024, 1024).to(dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best
