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
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from s15erav3.machine.lone_step import LoneStep, composed
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
    with (
        FakeTensorMode() as mode,
        patch.object(build, "refuse_if_too_large", lambda *_: None),
        # Else autocast switches itself off.
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda including_emulation=True: True),
        patch("torch.nn.functional.scaled_dot_product_attention", _fused_attention),
    ):
        yield mode


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, *, attn_mask: None, is_causal: bool, scale: float) -> Tensor:
    """The kernels that a GPU takes: flash attention where keys and values are equally wide, else the efficient one.

    torch chooses by the properties of a real device, and without one takes plain products and a softmax.
    """
    assert attn_mask is None and q.dtype == torch.bfloat16
    if q.shape[-1] == v.shape[-1] and q.shape[-1] % 8 == 0:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, False, scale=scale)[0]
    assert q.shape[-1] % 8 == 0 and v.shape[-1] % 8 == 0, "no fused attention kernel takes heads of this width"
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, None, torch.is_grad_enabled(), 0.0, is_causal, scale=scale
    )[0]


def fake_step(settings: Sequence[str]) -> LoneStep:
    """One training step of ``s15erav3 train SETTINGS`` with bf16 autocast; call it within :func:`fake_gpu`."""
    return LoneStep(composed(settings), "cuda")
