"""Tokens per second, model FLOPs utilisation (MFU), memory."""

from __future__ import annotations

import resource
import sys
import time

import torch


class Throughput:
    """A clock that runs during training and pauses during validation.

    Args:
        flops_per_token: FLOPs of training on one token.
        peak_flops: peak FLOP/s of all devices together; ``None`` if unknown, and then there is no MFU.
    """

    def __init__(self, flops_per_token: float, peak_flops: float | None) -> None:
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.tokens = 0
        self.seconds = 0.0
        self._since: float | None = None
        self._mark = (0, 0.0)

    def begin(self, device: torch.device) -> None:
        """Start the clock of a run, and count a GPU's memory from here: not that of an earlier job of this process."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.start()

    def start(self) -> None:
        """Start or continue the clock."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Pause the clock."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def add(self, tokens: int) -> None:
        """Count tokens trained on."""
        self.tokens += tokens

    def since_last(self, device: torch.device) -> dict[str, float]:
        """Return ``perf/*`` over the time since the last call.

        It reads a clock and counters, not the device's queue: call it after something else has synchronised the device.
        """
        self.pause()
        tokens, seconds = self.tokens - self._mark[0], self.seconds - self._mark[1]
        self._mark = (self.tokens, self.seconds)
        self.start()
        return self._metrics(tokens, seconds) | {"perf/memory_gb": memory_gb(device)}

    def overall(self) -> dict[str, float]:
        """Return ``perf/*_overall``, over all of this process's training so far; empty before any."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        metrics = self._metrics(self.tokens, self.seconds + running) if self.tokens else {}
        return {f"{name}_overall": value for name, value in metrics.items()}

    def _metrics(self, tokens: int, seconds: float) -> dict[str, float]:
        speed = tokens / max(seconds, 1e-9)
        metrics = {"perf/tokens_per_second": speed}
        if self.peak_flops:
            metrics["perf/mfu"] = speed * self.flops_per_token / self.peak_flops
        return metrics


def memory_gb(device: torch.device) -> float:
    """Return the peak memory so far in 1e9 bytes: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
