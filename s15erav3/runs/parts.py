"""Checkpoints in parts: of a model that is divided over ranks, each rank writes the rows that it has.

``last.ckpt`` then holds everything else, and shape and type of the divided tensors; ``last.parts/STEP/`` holds their
rows, one safetensors file for each rank. torch.distributed.checkpoint reads these files too (HuggingFaceStorageReader);
its own format keeps a pickle that its reader executes.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s15erav3.errors import UserError, one_line
from s15erav3.files import whole

OFFSETS = "DCP_SHARDING_INFO"
"""Where torch.distributed.checkpoint looks for the place of a file's rows in their tensors."""

Rows = dict[str, tuple[Tensor, int]]
"""Rows of tensors, by name, and the number of the first."""


def changed(value: Any, change: Callable[[Tensor, str], Any], name: str = "") -> Any:
    """Copy dicts, lists and tuples with their tensors changed.

    Args:
        change: gets a tensor and its place, as ``optimizer_states/0/state/3/exp_avg``.
    """
    under = name and f"{name}/"
    if isinstance(value, dict):
        return {key: changed(of, change, f"{under}{key}") for key, of in value.items()}
    if type(value) in (list, tuple):
        return type(value)(changed(of, change, f"{under}{index}") for index, of in enumerate(value))
    return change(value, name) if isinstance(value, Tensor) else value


def split(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], Rows]:
    """Separate the rows of divided tensors that this rank writes from the rest, where meta tensors take their place.

    A tensor with two names stays one. Of several copies of the model, the first is written.
    """
    from torch.distributed.tensor import DTensor  # slow import

    rows: Rows = {}
    places: dict[int, Tensor] = {}

    def apart(tensor: Tensor, name: str) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor.detach()
        if id(tensor) not in places:
            places[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            mesh, own = tensor.device_mesh, tensor.to_local().detach()
            coordinate = mesh.get_coordinate()
            assert coordinate is not None  # all ranks are in the mesh
            *copy, place = coordinate
            if not any(copy) and len(own):
                rows[name] = own, place * -(-len(tensor) // mesh.size(mesh.ndim - 1))  # as torch.chunk divides
        return places[id(tensor)]

    return changed(checkpoint, apart), rows


def parts_of(file: Path) -> Path:
    """The folder of a checkpoint's parts, if it has any."""
    return file.with_suffix(".parts")


def new_name(file: Path, step: int) -> str:
    """A name below :func:`parts_of` that is not in use: an older checkpoint must stay whole until it is replaced."""
    names = (f"{step:06d}{f'.{n}' if n else ''}" for n in count())
    return next(name for name in names if not (parts_of(file) / name).exists())


def write_part(file: Path, rows: Rows) -> tuple[int, int]:
    """Write rows of tensors, which may be on a device; return the file's bytes and their CRC-32."""
    from safetensors.torch import save

    places = {name: {"saved_offsets": [first, *[0] * (own.ndim - 1)]} for name, (own, first) in rows.items()}
    content = save({name: own.cpu().contiguous() for name, (own, _) in rows.items()}, {OFFSETS: json.dumps(places)})
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file, binary=True, durable=True) as target:
        target.write(content)
    return len(content), zlib.crc32(content)


def joined(payload: dict[str, Any], file: Path) -> dict[str, Any]:
    """Put the rows of a checkpoint's parts in their places; a checkpoint without parts is returned as it is.

    Args:
        payload: as read from ``file``.

    Raises:
        UserError: a part is missing, damaged, or of another checkpoint.
    """
    missing: dict[int, tuple[str, Tensor]] = {}  # by identity: a tensor with two names stays one
    changed(payload, lambda tensor, name: missing.setdefault(id(tensor), (name, tensor)) if tensor.is_meta else None)
    if not missing:
        return payload
    wanted = dict(missing.values())
    try:
        files = dict(_intact(payload["parts"], file))
        if sum(tensor.nbytes for tensor in wanted.values()) > sum(files.values()):  # before memory is allocated
            raise ValueError("it describes larger tensors than its parts hold")
        tensors = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in wanted.items()}
        found = dict.fromkeys(wanted, 0)
        for part in files:
            for name, own, first in _rows(part):
                tensors[name][first : first + len(own)] = own
                found[name] += len(own)
        if short := [name for name, tensor in tensors.items() if found[name] != len(tensor)]:
            raise ValueError(f"its parts hold {found[short[0]]} rows of {short[0]}, not {len(tensors[short[0]])}")
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError, OSError) as error:
        raise UserError(f"{file} is damaged: {one_line(error)[:200]}. Give another .ckpt file.") from error
    return {
        key: changed(value, lambda tensor, _: tensors[missing[id(tensor)][0]] if tensor.is_meta else tensor)
        for key, value in payload.items()
        if key != "parts"
    }


def _intact(parts: dict[str, Any], file: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files of a checkpoint's parts and their bytes, each after a look at its checksum."""
    names = [parts["folder"], *parts["files"]]
    if not all(re.fullmatch(r"\d+(\.\d+)?(\.safetensors)?", name) for name in names):
        raise ValueError("it names files that are no parts of a checkpoint")
    for name, (size, checksum) in parts["files"].items():
        part = parts_of(file) / parts["folder"] / name
        if not part.is_file():
            raise UserError(
                f"{file} lacks {part}: it was saved in parts (callbacks.checkpoint.sharded), and the folder "
                f"{parts_of(file).name} must lie beside it. Put it there, or give another .ckpt file."
            )
        if part.stat().st_size != size or _checksum(part) != checksum:
            raise UserError(f"{part}, a part of {file.name}, is damaged. Give another .ckpt file.")
        yield part, size


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _rows(part: Path) -> Iterator[tuple[str, Tensor, int]]:
    """Yield what :func:`write_part` has written.

    Raises:
        UserError: the package is missing.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError("checkpoints in parts need the package safetensors; pip install 's15erav3[hf]'.") from error
    try:
        with safe_open(part, "pt") as tensors:
            places = json.loads(tensors.metadata()[OFFSETS])
            for name in tensors.keys():  # noqa: SIM118 - no dict
                yield name, tensors.get_tensor(name), int(places[name]["saved_offsets"][0])
    except SafetensorError as error:
        raise ValueError(f"{part.name}: {one_line(error)}") from error


def forget_parts(file: Path, keep: str = "") -> None:
    """Remove parts of older checkpoints of this name, after the file itself was replaced."""
    old = [folder for folder in parts_of(file).glob("*") if folder.name != keep] if keep else [parts_of(file)]
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint to another name, and its parts first."""
    if parts_of(source).is_dir():
        shutil.copytree(parts_of(source), parts_of(target), dirs_exist_ok=True)
    with whole(target, binary=True, durable=True) as copy, source.open("rb") as original:
        shutil.copyfileobj(original, copy)
