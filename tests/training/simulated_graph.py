"""A CUDA graph on the CPU: operators are written down, and later run on the same memory, without Python.

As with the real one, nothing that Python decides or computes while it records is decided again. To find the results'
shapes the operators also run while they are recorded; what they change is put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class SimulatedGraph:
    """In place of :class:`s15erav3.training.cuda_graph.Graph`."""

    def __init__(self) -> None:
        self.operators: Operators

    def beside(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def recording(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]), Operators() as self.operators:
            yield
        for tensor, value in self.operators.before:
            tensor.detach().copy_(value)

    def replay(self) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for function, args, kwargs, out in self.operators.seen:
                again = function(*args, **kwargs)
                for result, value in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(result, Tensor) and result.data_ptr() != value.data_ptr():
                        result.copy_(value)


class Operators(TorchDispatchMode):
    """Keeps every operator with its arguments and results, and what it overwrites that was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []
        self.outside: set[int] = set()  # memory that was there before; the record needs it to stay
        self._made: set[int] = set()
        self._kept: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        arguments = function._schema.arguments
        given = [*zip(arguments, args, strict=False), *((a, kwargs[a.name]) for a in arguments if a.name in kwargs)]
        written = [value for a, value in given if a.alias_info is not None and a.alias_info.is_write]
        for tensor in (t for t in tree_leaves(written) if isinstance(t, Tensor)):
            if place(tensor) not in self._made | self._kept:
                self._kept.add(place(tensor))
                whole = tensor.detach().as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)
                self.before.append((whole, whole.clone()))
        self.outside |= {place(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)} - self._made
        out = function(*args, **kwargs)
        if not function.is_view:
            self._made |= {place(t) for t in tree_leaves(out) if isinstance(t, Tensor)} - self.outside
        self.seen.append((function, *tree_map(_memory, (args, kwargs, out))))
        return out


def place(tensor: Tensor) -> int:
    """Where a tensor's memory begins."""
    return tensor.untyped_storage().data_ptr()


def _memory(value: Any) -> Any:
    """A tensor on the same memory, whatever memory the tensor itself is given later."""
    return value.detach() if isinstance(value, Tensor) else value
