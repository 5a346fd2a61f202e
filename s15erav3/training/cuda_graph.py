"""The forward and backward passes of a step as one CUDA graph: one launch in place of thousands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from s15erav3.balancing.base import Balancer
from s15erav3.training.mtp import Ahead
from s15erav3.training.records import Passes

WARM_UP = 3
"""Steps before the one that is recorded, in which kernels are chosen, compiled and given their workspaces."""

Run = Callable[[Tensor, Ahead | None], Passes]


class Unrecordable(Exception):
    """CUDA's message on an operation that cannot be recorded."""


class RecordedPasses:
    """Run :meth:`LanguageModule.passes` for some steps, record it, and replay the record from then on.

    A replay repeats the recorded kernels on the same memory, and no Python. So a batch is copied into the recorded
    one's place; the gradients, which lie where the record left them, are given to the parameters, which must have none;
    and the attributes of the strategy that the passes set (such as a list of what it observed) are set again, to the
    tensors that the replay has filled. State of a strategy that lasts longer than a step lies in its buffers.

    Args:
        run: the passes of a step. They may not read a value on the host, and may depend on tensors only.
        net: whose parameters get gradients.
        balancer: the balancing strategy.
    """

    def __init__(self, run: Run, net: nn.Module, balancer: Balancer) -> None:
        self.run, self.net, self.balancer = run, net, balancer
        self.steps = 0
        self.graph: Graph
        self.inputs: tuple[Tensor, Ahead | None]
        self.outputs: Passes
        self.gradients: list[tuple[nn.Parameter, Tensor | None]]
        self.left: list[tuple[nn.Module, dict[str, Any]]]

    def __call__(self, batch: Tensor, ahead: Ahead | None) -> Passes:
        """Run the passes of the next step; the arguments keep their shapes from step to step.

        Raises:
            Unrecordable: the passes do something that cannot be recorded.
        """
        self.steps += 1
        if self.steps == 1:
            self.graph = Graph()
        if self.steps <= WARM_UP:
            with self.graph.beside():
                return self.run(batch, ahead)
        if self.steps == WARM_UP + 1:
            self._record(batch, ahead)
        else:
            tree_map(lambda place, new: None if place is None else place.copy_(new), self.inputs, (batch, ahead))
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        for module, attributes in self.left:
            vars(module).update(copied(attributes))
        outputs: Passes = tree_map(lambda tensor: None if tensor is None else tensor.clone(), self.outputs)
        return outputs

    def _record(self, batch: Tensor, ahead: Ahead | None) -> None:
        self.inputs = tree_map(lambda tensor: None if tensor is None else tensor.clone(), (batch, ahead))
        before = [(module, state(module)) for module in self.balancer.modules()]
        try:
            with self.graph.recording():
                self.outputs = self.run(*self.inputs)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise Unrecordable(str(error)) from error
        self.gradients = [(parameter, parameter.grad) for parameter in self.net.parameters()]
        self.left = [
            (module, {name: value for name, value in state(module).items() if not same(value, old.get(name))})
            for module, old in before
        ]


class Graph:
    """A CUDA graph and the stream that records it, for one device."""

    def __init__(self) -> None:
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run kernels on the stream that will record, after all before and before all after."""
        now = torch.cuda.current_stream()
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            yield
        now.wait_stream(self._stream)

    def recording(self) -> AbstractContextManager[None]:
        """Record kernels instead of running them. Other threads, such as a data loader's, go on with theirs."""
        return torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local")

    def replay(self) -> None:
        """Run what was recorded."""
        self._graph.replay()


OF_ANY_MODULE = frozenset(vars(nn.Module()))


def state(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are no buffers or parts, in containers of their own."""
    return {name: copied(value) for name, value in vars(module).items() if name not in OF_ANY_MODULE}


def copied(value: Any) -> Any:
    """Copy lists, tuples and dictionaries, and no other objects."""
    return tree_map(lambda leaf: leaf, value)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same objects in equal containers."""
    (leaves, shape), (others, its_shape) = tree_flatten(one), tree_flatten(other)
    return shape == its_shape and all(a is b for a, b in zip(leaves, others, strict=True))
