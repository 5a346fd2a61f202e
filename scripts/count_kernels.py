"""Count the kernels, bytes and FLOPs of one training step on a GPU, without a GPU, and the time they take at least.

Computed from shapes, with fake tensors (see fake_gpu.py); nothing is timed. For each kernel the larger of its bytes
over the bandwidth and its FLOPs over the peak is added up. Views launch nothing; an operation that launches
several kernels (a sort, a multi-tensor product) counts once, so the counts are lower bounds. Bytes are those of all
inputs and outputs, as if no cache kept any.

With ``compile=true`` blocks are those of Inductor's graphs (see fake_compiler.py): Triton kernels, by what they read
and write, and products, attention and sorts, which stay kernels of libraries.

    .cuda-venv/bin/python scripts/count_kernels.py [SETTING=VALUE ...]    # default: experiment=original
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from fake_compiler import fake_compiler
from fake_gpu import fake_gpu, fake_step
from torch import Tensor, nn
from torch._inductor import ir, scheduler
from torch._inductor.graph import GraphLowering
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from s15erav3.machine.lone_step import LoneStep, composed
from s15erav3.session.compiling import compile_blocks
from s15erav3.training.hardware import PEAKS


class Card(NamedTuple):
    """Peaks from NVIDIA's data sheets of the SXM cards: dense bf16 and memory bandwidth."""

    flops: float
    bytes: float


CARDS = {
    name: Card(PEAKS[name][0] * 1e12, bandwidth)
    for name, bandwidth in (("A100", 2.039e12), ("H100", 3.35e12), ("H200", 4.8e12))
}
NO_KERNEL = {
    "_unsafe_view",
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "device",
    "detach",
}
"""Operations that launch nothing, beside those that torch marks as views."""
KERNELS_OF = {"grouped_outer": 6}
"""Kernels of the custom operators that launch more than one (see ``s15erav3/model/grouped.py``)."""
LAUNCH = 5e-6
"""Seconds that a host takes for one eager operation, an assumption."""


@dataclass
class Total:
    """Sums over the kernels of a part."""

    kernels: int = 0
    casts: int = 0
    bytes: float = 0.0
    flops: float = 0.0

    def __post_init__(self) -> None:
        self.seconds = dict.fromkeys(CARDS, 0.0)

    def add(self, other: Total) -> None:
        self.kernels += other.kernels
        self.casts += other.casts
        self.bytes += other.bytes
        self.flops += other.flops
        for card in CARDS:
            self.seconds[card] += other.seconds[card]


class Counter(TorchDispatchMode):
    """Adds up every operation under the part that runs it."""

    def __init__(self, parts: Callable[[], str]) -> None:
        super().__init__()
        self.parts, self.totals = parts, defaultdict[str, Total](Total)

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled functions run as such while operations are counted."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.totals[self.parts()].add(cost(func, args, kwargs or {}, out))
        return out


def cost(func: Any, args: Any, kwargs: Any, out: Any) -> Total:
    """Of one operation; all zero for a view."""
    name = func._schema.name.rpartition("::")[2]
    total = Total()
    given, made = tensors((args, kwargs)), tensors(out)
    written = [
        tensor
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tensors(value)
    ]
    if name in NO_KERNEL or func.is_view or not (made or written):
        return total
    fresh = [tensor for tensor in made if not any(tensor is other for other in given)]
    total.kernels, total.casts = KERNELS_OF.get(name, 1), int(name == "_to_copy")
    total.bytes = float(sum(tensor.numel() * tensor.element_size() for tensor in (*given, *written, *fresh)))
    total.flops = float(flops(func, args, kwargs, out, name))
    for card, peak in CARDS.items():
        total.seconds[card] = max(total.bytes / peak.bytes, total.flops / peak.flops)
    return total


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested containers."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def flops(func: Any, args: Any, kwargs: Any, out: Any, name: str) -> int:
    """Of products and attention, two per multiplication."""
    if name == "grouped_linear":
        return 2 * args[0].numel() * args[1].shape[1]
    if name == "grouped_outer":
        return 2 * args[0].numel() * args[1].shape[1]
    formula = flop_registry.get(func._overloadpacket)
    return formula(*args, **kwargs, out_val=out) if formula else 0


class Parts:
    """The part of the step that runs now: by the modules of the net, else by what was called.

    A kernel of the backward pass belongs to the part whose forward pass made its autograd node.
    """

    def __init__(self) -> None:
        self.tracker, self.called = ModuleTracker(), ""
        self.of_node: dict[int, str] = {}

    def __call__(self) -> str:
        node = torch._C._current_autograd_node()
        if node is not None:
            return self.of_node.get(node._sequence_nr(), "sums of gradients")
        part = self.called or self.by_module()
        self.of_node[torch._C._autograd._get_sequence_nr() - 1] = part
        return part

    def by_module(self) -> str:
        """The part of the innermost module whose forward pass runs."""
        where = max(self.tracker.parents, key=len)
        for part, sign in (
            ("norms", "norm"),
            ("attention", "self_attn"),
            ("router", ".router"),
            ("shared experts", "shared_experts"),
            ("routed experts", ".experts"),
            ("dense MLP", ".mlp."),
            ("net, the rest", "."),
        ):
            if sign in where:
                return part
        return "the rest of the step"

    @contextmanager
    def as_called(self, owner: Any, name: str, part: str) -> Iterator[None]:
        """Count what ``owner.name`` does as ``part``."""
        right = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            before, self.called = self.called, part
            try:
                return right(*args, **kwargs)
            finally:
                self.called = before

        with patch.object(owner, name, counted):
            yield


def of_graph(graph: GraphLowering, code: str, part: str) -> dict[str, Total]:
    """The kernels of a compiled graph of ``part``: those that Inductor writes, and those of libraries.

    Raises:
        AssertionError: the source code launches another number of Triton kernels than the schedule has.
    """
    written, library = Total(), Total()
    for node in graph.scheduler.nodes:
        if isinstance(node, scheduler.NopKernelSchedulerNode) or isinstance(node.node, ir.MultiOutput):
            continue  # nothing, or an output of a kernel before it
        of_library = isinstance(node, scheduler.ExternKernelSchedulerNode)
        if of_library and (its := operation(node.node)):
            args, kwargs = tree_map(lambda x: x.meta["val"] if isinstance(x, Node) else x, (its.args, its.kwargs))
            kernel = cost(its.target, args, kwargs, its.meta["val"])
        else:  # its bytes are all that counts
            kernel = Total(kernels=1, bytes=float(node.get_read_write_buffers_sizes()))
            kernel.seconds = {card: kernel.bytes / peak.bytes for card, peak in CARDS.items()}
        (library if of_library else written).add(kernel)
    assert written.kernels == code.count(".run("), code
    return {f"{part}, Triton": written, f"{part}, libraries": library}


def operation(kernel: ir.ExternKernel) -> Node | None:
    """The operation that a kernel of a library does; ``None`` for one that Inductor has replaced by another."""
    same = (node for node in kernel.origins if node.target is kernel.op_overload)
    return kernel.get_origin_node() or next(same, None)


def count(step: LoneStep, compiled: bool) -> dict[str, Total]:
    """The totals of one step by part, after a first step that makes the optimizer's state."""
    ran: dict[str, Total] = defaultdict(Total)
    parts = Parts()

    def lowered(graph: GraphLowering, code: str) -> Callable[[], None]:
        its = of_graph(graph, code, parts.called or "blocks")

        def add() -> None:
            for part, total in its.items():
                ran[part].add(total)

        return add

    with fake_compiler(lowered) if compiled else nullcontext(), parts.as_called(step.module, "cross_entropy", "loss"):
        if compiled:
            compile_blocks(step.module.net, "cuda")
        step()
        ran.clear()
        return ran | eager(step)


def eager(step: LoneStep) -> dict[str, Total]:
    """The operations of one step that no compiled graph has."""
    parts = Parts()
    with (
        parts.as_called(step.module, "cross_entropy", "head and loss"),
        parts.as_called(step.optimizer, "step", "optimizer"),
        parts.as_called(nn.utils, "clip_grad_norm_", "clipping"),
        parts.as_called(step.module.balancer, "bias_update", "balancing"),
        parts.tracker,
        Counter(parts) as counter,
    ):
        step()
    return dict(counter.totals)


def table(totals: dict[str, Total], tokens: int) -> str:
    """The counts in Markdown, the largest part first, and the bounds of the whole step."""
    whole = Total()
    for total in totals.values():
        whole.add(total)
    cards = " | ".join(f"{card}, ms" for card in CARDS)
    lines = [f"| part | kernels | casts | GB moved | TFLOP | {cards} |", "| --- |" + " --- |" * (4 + len(CARDS))]
    order = sorted(
        ((part, total) for part, total in totals.items() if total.kernels), key=lambda item: -item[1].kernels
    )
    for part, total in [*order, ("**whole step**", whole)]:
        times = " | ".join(f"{seconds * 1e3:.2f}" for seconds in total.seconds.values())
        amounts = f"{total.bytes / 1e9:.2f} | {total.flops / 1e12:.3f}"
        lines.append(f"| {part} | {total.kernels:,} | {total.casts:,} | {amounts} | {times} |")
    lines.append("")
    for card, seconds in whole.seconds.items():
        lines.append(f"{card}: at most {tokens / seconds:,.0f} tokens/s by bytes and FLOPs of these kernels.")
    bound = tokens / (whole.kernels * LAUNCH)
    lines.append(f"Any card: at most {bound:,.0f} tokens/s if the host takes {LAUNCH * 1e6:.0f} us for each of them.")
    return "\n".join(lines)


def main() -> None:
    """Count and print."""
    warnings.filterwarnings("ignore")
    if any(word.startswith("-") for word in sys.argv[1:]):
        raise SystemExit(__doc__)
    settings = sys.argv[1:] or ["experiment=original"]
    with fake_gpu():
        step = fake_step(settings)
        totals = count(step, composed(settings).compile)
    print(f"computed, not measured: {' '.join(settings)}, {step.tokens:,} tokens a step, torch {torch.__version__}\n")
    print(table(totals, step.tokens))


if __name__ == "__main__":
    main()
