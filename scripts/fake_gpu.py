"""A GPU that computes nothing: the CUDA build of torch on a machine without one, with fake tensors.

Shapes, dtypes, devices and strides are those of a real GPU; an operation that would need values on the host raises.
Works with the CUDA build of torch only, see cuda_venv.sh.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from s15erav3.doctor.lone_step import LoneStep, composed
from s15erav3.session import build

UNSUITED = (
    None
    if torch.version.cuda and not torch.cuda.is_available() and sys.platform == "linux"
    else f"torch {torch.__version__} is no CUDA build, or there is a GPU; `make gpu-static` makes an environment"
)
"""Why fake CUDA tensors do not work here; ``None`` if they do."""

HAS_PRIMARY_CONTEXT = 4
"""Place of ``hasPrimaryContext`` in the table of ``at::AcceleratorHooksInterface``, after two destructors."""


@cache
def _no_device_has_a_context() -> list[object]:
    """Let a backward pass begin without a driver.

    Autograd asks the CUDA hooks whether the device has a context, to note its stream. Without a driver they raise
    (pytorch issue 92627), so their table of virtual functions is replaced by a copy that answers no.
    """
    torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    hooks_of = torch_cpu._ZN2at6detail12getCUDAHooksEv
    hooks_of.restype = ctypes.c_void_p
    hooks = ctypes.cast(hooks_of(), ctypes.POINTER(ctypes.c_void_p))
    before, entries = 2, 64  # type information stands before the first function
    width = ctypes.sizeof(ctypes.c_void_p)
    old = ctypes.cast(hooks[0] - before * width, ctypes.POINTER(ctypes.c_void_p))
    table = (ctypes.c_void_p * entries)(*old[:entries])
    no = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda _hooks, _device: False)
    table[before + HAS_PRIMARY_CONTEXT] = ctypes.cast(no, ctypes.c_void_p)
    hooks[0] = ctypes.addressof(table) + before * width
    return [table, no]  # must outlive the process's last backward pass


@contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """Within this context all tensors are fake, and ``cuda`` is a device.

    Raises:
        RuntimeError: torch is no CUDA build, or there is a real GPU.
    """
    if UNSUITED:
        raise RuntimeError(UNSUITED)
    _no_device_has_a_context()
    with FakeTensorMode() as mode, patch.object(build, "refuse_if_too_large", lambda *_: None):
        yield mode


def fake_step(settings: Sequence[str]) -> LoneStep:
    """One training step of ``s15erav3 train SETTINGS`` with bf16 autocast; call it within :func:`fake_gpu`."""
    cfg = composed(settings)
    if cfg.optimizer.get("bf16", False) is None:
        cfg.optimizer.bf16 = True  # what the hardware is asked for
    return LoneStep(cfg, "cuda")
