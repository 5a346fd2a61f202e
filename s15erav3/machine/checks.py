"""Checks of the GPU path, from the single kernel to a short training. Each returns figures or raises.

They take the device as an argument, so that what does not need a GPU can be tried on a CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

from s15erav3.machine.lone_step import LoneStep, composed
from s15erav3.machine.programs import bench_generate, bench_step, packing, several_devices, training
from s15erav3.model.grouped import grouped_linear, grouped_outer
from s15erav3.training.cuda_graph import WARM_UP

Figures = dict[str, Any]

SMALL = ["model=nano", "experts=e8", "data.batch_size=4", "data.sequence_length=128"]
LOSS_TOLERANCE = 1e-3
"""Largest relative difference of a bf16 step's loss from the fp32 loss on the CPU, with the same weights; a CPU's own
bf16 differs by 1e-5."""
COSINE = 0.95
"""Least cosine between the two gradients of any parameter; a CPU's own bf16 reaches 0.99, as it keeps 8 bits and sends
some tokens to other experts."""

GRAPHS = {"eager": [], "compiled": ["compile=true"]}
"""Settings of the blocks whose passes are recorded."""


class Failed(Exception):
    """A check came to its end with a wrong result."""


def precision(device: str) -> Figures:
    """TFLOP/s of a large product in bf16 and in fp32 with and without TF32."""
    size = 4096 if device == "cuda" else 512
    figures: Figures = {}
    for name, dtype, mode in (
        ("bf16", torch.bfloat16, "highest"),
        ("fp32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
    ):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(mode)
        try:
            left, right = torch.randn(2, size, size, device=device).to(dtype)
            seconds = median_seconds(lambda a=left, b=right: torch.mm(a, b), device)  # type: ignore[misc]
        finally:
            torch.set_float32_matmul_precision(before)
        figures[f"{name}_tflops"] = round(2 * size**3 / seconds / 1e12, 3)
    return figures


def grouped_mm(device: str) -> Figures:
    """The experts' products against fp64, with an empty expert; whether they read the group sizes on the host."""
    torch.manual_seed(0)
    loads = torch.tensor([40, 0, 7, 81], device=device)
    ends = loads.cumsum(0).to(torch.int32)
    x = torch.randn(128, 64, device=device).bfloat16()
    weight = torch.randn(4, 96, 64, device=device).bfloat16()
    with no_synchronisation(device):
        y = grouped_linear(x, weight, ends)
        outer = grouped_outer(y, x, ends)
    expert = torch.arange(4, device=device).repeat_interleave(loads)
    right = torch.einsum("moi,mi->mo", weight.double()[expert], x.double())
    errors = {"linear_error": relative(y, right)}
    sums = torch.zeros(4, 96, 64, dtype=torch.float64, device=device)
    sums.index_add_(0, expert, y.double().unsqueeze(2) * x.double().unsqueeze(1))
    errors["outer_error"] = relative(outer, sums)
    if max(errors.values()) > 0.01 or outer[1].any():
        raise Failed(f"the experts' products are wrong: relative errors {errors}, an empty expert's must be 0")
    return errors


def parity(device: str) -> Figures:
    """Loss and gradient of a bf16 step against fp32 on the CPU, with the same weights and tokens."""
    cfg = composed([*SMALL, "balancing=loss_free"])
    torch.manual_seed(0)
    exact = LoneStep(cfg, "cpu", 4096, bf16=False)
    tested = LoneStep(cfg, device, 4096)
    tested.module.load_state_dict(exact.module.state_dict())
    tested.batch = exact.batch.to(device)
    (loss, gradients), (its_loss, its_gradients) = loss_and_gradients(exact), loss_and_gradients(tested)
    difference = abs(its_loss - loss) / loss
    cosines = {n: F.cosine_similarity(its_gradients[n], g, dim=0).item() for n, g in gradients.items()}
    worst = min(cosines, key=lambda name: cosines[name])
    figures = {"loss": loss, "loss_difference": difference, "least_cosine": cosines[worst], "of": worst}
    if not (difference <= LOSS_TOLERANCE and cosines[worst] >= COSINE):
        raise Failed(f"a bf16 step differs from fp32 on the CPU: {figures}")
    return figures


def no_sync(device: str) -> Figures:
    """Training steps of several strategies in which the host never waits for the device."""
    choices = ("loss_free", "bip", "quantile", "switch", "expert_choice")
    for balancing in choices:
        extra = ["model.num_nextn_predict_layers=1", "trainer.accumulate_grad_batches=2"]
        step = LoneStep(composed([*SMALL, f"balancing={balancing}", *extra]), device, 4096)
        step()  # the first one sets up the optimizer's state
        with no_synchronisation(device):
            step()
            step()
    return {"balancing": list(choices)}


def graph_capture(device: str) -> Figures:
    """Steps with ``cuda_graphs=true`` reach the losses of steps without, eager and compiled; the time of each."""
    figures: Figures = {}
    counters.clear()
    for name, settings in GRAPHS.items():
        losses: dict[str, list[float]] = {}
        for way, graphs in (("", "false"), ("_recorded", "true")):
            torch.manual_seed(0)
            more = ["balancing=quantile", "trainer.accumulate_grad_batches=2", f"cuda_graphs={graphs}", *settings]
            step = LoneStep(composed([*SMALL, *more]), device, 4096)
            losses[way] = []
            for _ in range(WARM_UP + 5):
                step.batch = torch.randint(4096, step.batch.shape, device=device)
                losses[way].append(step().item())
            figures[f"{name}{way}_ms"] = round(median_seconds(step, device) * 1e3, 3)
        difference = max(abs(a - b) / b for a, b in zip(losses["_recorded"], losses[""], strict=True))
        figures[f"{name}_loss_difference"] = difference
        if not difference <= LOSS_TOLERANCE:
            raise Failed(f"recorded steps differ from {name} ones: {figures}, losses {losses}")
    if counters["graph_break"]:
        raise Failed(f"a block is no single graph: breaks {dict(counters['graph_break'])}")
    return figures


CHECKS: Mapping[str, Callable[[str], Figures]] = {
    "precision": precision,
    "grouped_mm": grouped_mm,
    "parity": parity,
    "no_sync": no_sync,
    "graph_capture": graph_capture,
    "packing": packing,
    "several_devices": several_devices,
    "bench_step": bench_step,
    "bench_generate": bench_generate,
    "training": training,
}
"""All checks by name, in the order in which they run."""


def loss_and_gradients(step: LoneStep) -> tuple[float, dict[str, Tensor]]:
    """Loss of the step's batch, and the gradient of each parameter as a fp64 vector on the CPU."""
    with torch.autocast(step.device, torch.bfloat16, enabled=step.bf16):
        loss = step.module.objective(step.batch, step.batch, None).loss
    torch.autograd.backward(loss)
    named = step.module.net.named_parameters()
    return loss.item(), {name: p.grad.flatten().double().cpu() for name, p in named if p.grad is not None}


def relative(found: Tensor, right: Tensor) -> float:
    """Norm of the difference over the norm of what is right."""
    return float((found.double() - right).norm() / right.norm())


def median_seconds(call: Callable[[], object], device: str, times: int = 10) -> float:
    """Median wall time of a call, the device's work included, after one call to warm up."""
    spent = []
    for _ in range(times + 1):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[1:])


@contextmanager
def no_synchronisation(device: str) -> Iterator[None]:
    """On a GPU, raise where the host waits for the device."""
    if device != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
