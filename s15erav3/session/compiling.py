"""``torch.compile`` of a model's blocks, with compiled code shared between runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from s15erav3.data.cache import cache_dir
from s15erav3.errors import UserError
from s15erav3.model import Transformer
from s15erav3.model.block import Block


def compile_blocks(net: Transformer, device: str, backend: str = "inductor") -> None:
    """Compile each block at its first use, in place: names and checkpoints stay the same.

    A block is the largest part that repeats, and blocks of a kind share their code, so the time to compile does not
    grow with the number of layers. Runs and the jobs of a sweep share the code on disk. What this process compiled for
    an earlier job is dropped: with many sizes, torch would reach its limit of versions and run eager code instead.

    Raises:
        UserError: there is no compiler: of C++ for ``device="cpu"``, of C for "cuda".
    """
    if backend == "inductor":
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled_code())
        _check_compiler(device)
    torch.compiler.reset()
    if dynamo := sys.modules.get("torch._dynamo.utils"):
        dynamo.cumulative_time_spent_ns.clear()
    for block in _blocks(net):
        block.compile(backend=backend)


def compiled_code() -> Path:
    """Folder of compiled code: torch's own variable ``TORCHINDUCTOR_CACHE_DIR``, or a part of the cache folder."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # torch sets the variable itself when torch._dynamo is imported, to a folder that a restart of the machine empties.
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    return Path(given) if given and given != default_cache_dir() else cache_dir() / "compiled"


def compile_seconds(net: Transformer) -> float | None:
    """Seconds in ``torch.compile`` since :func:`compile_blocks`; ``None`` if the net's blocks are not compiled."""
    if all(block._compiled_call_impl is None for block in _blocks(net)):
        return None
    spent: float = sys.modules["torch._dynamo.utils"].calculate_time_spent()["total_wall_time"]
    return spent


def _blocks(net: Transformer) -> Iterator[Block]:
    return (module for module in net.modules() if isinstance(module, Block))


def _check_compiler(device: str) -> None:
    if device == "cuda":  # Triton compiles what launches its kernels
        if not os.environ.get("CC") and not any(map(shutil.which, ("cc", "gcc", "clang"))):
            raise UserError(
                "compile=true needs a C compiler on a GPU, and none was found; install gcc (or name one in the "
                "environment variable CC), or leave out compile=true."
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            "compile=true needs a C++ compiler on a CPU, and none was found; install g++ (or name one in the "
            "environment variable CXX), or leave out compile=true."
        ) from error
