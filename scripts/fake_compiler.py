"""``torch.compile`` for a GPU that is not there: Inductor writes its Triton kernels, and nothing compiles or runs them.

Works with the CUDA build of torch only, within :func:`fake_gpu.fake_gpu`. Which operations share a kernel depends on
the GPU's size alone, and is decided here as for an H100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch.utils._pytree import tree_map

H100 = SimpleNamespace(
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 * 2**30,
    regs_per_multiprocessor=65_536,
    max_threads_per_multi_processor=2_048,
    max_threads_per_block=1_024,
    warp_size=32,
)
ANSWERS = {
    "torch.cuda.get_device_properties": H100,
    "torch.cuda.get_device_capability": (9, 0),
    "torch._dynamo.device_interface.CudaInterface.get_device_properties": H100,
    "torch._dynamo.device_interface.CudaInterface.get_compute_capability": 90,
    "torch._inductor.compile_fx._check_triton_bf16_support": None,
    "torch._inductor.scheduler.has_triton": True,
    "torch.utils._triton.triton_hash_with_backend": "none",
}
"""What Inductor asks of the device and its driver, and the answers."""


@contextmanager
def fake_compiler(lowered: Callable[[GraphLowering, str], Callable[[], None]]) -> Iterator[None]:
    """Within this context a compiled function makes outputs of the right shapes, and no values.

    Args:
        lowered: is told of each graph (of a forward or a backward pass) and its source code when it is compiled;
            returns what is called whenever the graph runs.
    """

    def in_place_of_compiling(graph: GraphLowering, code: Any) -> SimpleNamespace:
        ran = lowered(graph, code.value)
        (outputs,) = graph.module.graph.output_node().args

        def call(_: Any) -> list[Any]:
            ran()
            return [tree_map(_like, None if node is None else node.meta["val"]) for node in outputs]

        return SimpleNamespace(call=call, __file__="nowhere", key="", get=None)

    with ExitStack() as stack:
        for name, answer in ANSWERS.items():
            stack.enter_context(patch(name, lambda *_, answer=answer: answer))
        stack.enter_context(patch.object(GraphLowering, "_compile_to_module_lines", in_place_of_compiling))
        # Constants are folded on a real device.
        stack.enter_context(config.patch(force_disable_caches=True, joint_graph_constant_folding=False))
        torch.compiler.reset()
        yield
        torch.compiler.reset()


def _like(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
