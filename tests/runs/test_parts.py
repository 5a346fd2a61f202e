"""Checkpoints in parts: read whole whatever the number of ranks; whatever is wrong with a part gets one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from s15erav3.errors import UserError
from s15erav3.runs import checkpoint_io
from s15erav3.runs.checkpoint_io import WholeFileIO, write_parts
from s15erav3.runs.parts import copy_checkpoint, joined, parts_of, write_part
from s15erav3.runs.rewind import set_aside
from tests.training.together import in_ranks

WEIGHT = torch.arange(15.0).view(5, 3)
MOMENT = torch.arange(4.0, dtype=torch.float64)


def read(file: Path) -> dict[str, Any]:
    return joined(torch.load(file, weights_only=True), file)


def by_hand(file: Path) -> Path:
    """A checkpoint of two ranks, of which the second has the last rows."""
    weight, moment = (torch.empty_like(t, device="meta") for t in (WEIGHT, MOMENT))
    written = {
        f"0000{rank}.safetensors": write_part(
            parts_of(file) / "000007" / f"0000{rank}.safetensors",
            {"state_dict/a": (WEIGHT[here], here.start), "optimizer_states/0/m": (MOMENT[there], there.start)},
        )
        for rank, (here, there) in enumerate([(slice(0, 3), slice(0, 2)), (slice(3, 5), slice(2, 4))])
    }
    payload = {
        "global_step": 7,
        "state_dict": {"a": weight, "same": weight, "plain": torch.ones(2)},
        "optimizer_states": [{"m": moment}],
        "parts": {"folder": "000007", "files": written},
    }
    torch.save(payload, file)
    return file


def test_rows_return_to_their_places(tmp_path: Path) -> None:
    """A tensor with two names is one again, and nothing tells that there were parts."""
    found = read(by_hand(tmp_path / "last.ckpt"))
    assert torch.equal(found["state_dict"]["a"], WEIGHT) and torch.equal(found["optimizer_states"][0]["m"], MOMENT)
    assert found["state_dict"]["same"] is found["state_dict"]["a"] and "parts" not in found
    assert found["global_step"] == 7 and torch.equal(found["state_dict"]["plain"], torch.ones(2))


def change(file: Path, **parts: Any) -> None:
    """Change what a checkpoint tells of its parts."""
    payload = torch.load(file, weights_only=True)
    payload["parts"] |= parts
    torch.save(payload, file)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def larger(file: Path) -> None:
    payload = torch.load(file, weights_only=True)
    payload["state_dict"]["a"] = torch.empty(1 << 40, 3, device="meta")
    torch.save(payload, file)


def one_of(file: Path) -> dict[str, Any]:
    return dict([*torch.load(file, weights_only=True)["parts"]["files"].items()][:1])


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda f: parts_of(f).rename(f.with_name("elsewhere")), "the folder last.parts must lie beside it"),
    "a file less": (lambda f: (parts_of(f) / "000007/00001.safetensors").unlink(), "lacks"),
    "another byte": (
        lambda f: flip(parts_of(f) / "000007/00001.safetensors"),
        "00001.safetensors, a part of last.ckpt",
    ),
    "rows less": (lambda f: change(f, files=one_of(f)), "hold 3 rows of state_dict/a, not 5"),
    "no parts": (lambda f: change(f, files={}), "larger tensors"),
    "a huge tensor": (larger, "larger tensors than its parts hold"),
    "a way out": (lambda f: change(f, folder="../../secret"), "names files that are no parts"),
    "a file elsewhere": (lambda f: change(f, files={"../x.safetensors": (1, 1)}), "names files that are no parts"),
    "a wrong type": (lambda f: change(f, files=[1, 2]), "is damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_told(tmp_path: Path, fault: str) -> None:
    """In one sentence with the file's name."""
    spoil, words = FAULTS[fault]
    spoil(file := by_hand(tmp_path / "last.ckpt"))
    with pytest.raises(UserError) as told:
        read(file)
    assert words in str(told.value) and str(tmp_path) in str(told.value), told.value


def test_a_copy_lives_longer_than_its_original(tmp_path: Path) -> None:
    """A whole checkpoint takes the place of one in parts, which go with it."""
    copy_checkpoint(by_hand(tmp_path / "best.ckpt"), tmp_path / "last.ckpt")
    WholeFileIO().save_checkpoint({"global_step": 9}, tmp_path / "best.ckpt")
    assert torch.equal(read(tmp_path / "last.ckpt")["state_dict"]["a"], WEIGHT)
    assert read(tmp_path / "best.ckpt") == {"global_step": 9}
    assert {file.name for file in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt", "last.parts"}


def test_parts_are_set_aside_with_their_checkpoint(tmp_path: Path) -> None:
    """A later one than that which is resumed."""
    (tmp_path / "checkpoints").mkdir()
    place = set_aside(tmp_path, [by_hand(tmp_path / "checkpoints" / "last.ckpt")])
    assert torch.equal(read(place / "last.ckpt")["state_dict"]["a"], WEIGHT)
    assert not [*(tmp_path / "checkpoints").iterdir()]


def saved(folder: Path, rows: int) -> Any:
    """Two saves by this rank; the second one's disk is full on the last rank."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    weight: Any = distribute_tensor(torch.arange(float(rows)), mesh, [Shard(0)])
    files, file = WholeFileIO(), folder / "last.ckpt"
    files.save_parts({"global_step": 3, "w": weight}, file, None)
    if dist.get_rank() == dist.get_world_size() - 1:
        checkpoint_io.write_part = disk_is_full  # in a process of its own
    try:
        files.save_parts({"global_step": 4, "w": weight + 1}, file, None)
    except OSError as error:
        return error.errno
    return 0


def disk_is_full(*args: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def folders(file: Path) -> list[str]:
    return [folder.name for folder in parts_of(file).iterdir()]


@pytest.mark.parametrize("rows", [1, 5])
def test_a_rank_that_cannot_write_leaves_the_old_checkpoint(tmp_path: Path, rows: int) -> None:
    """All ranks raise its error; a rank may have no rows at all."""
    found = in_ranks(2, partial(saved, tmp_path, rows), tmp_path)
    file = tmp_path / "last.ckpt"
    if rows == 1:  # the last rank has nothing to write
        assert found == [0, 0] and folders(file) == ["000004"]
        assert read(file)["w"].tolist() == [1.0]
    else:
        assert found == [errno.ENOSPC] * 2 and folders(file) == ["000003"]
        assert read(file)["w"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_an_older_checkpoint_of_the_same_step_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the new file is there: a run may be resumed before that step, and be killed when it saves it again."""
    file = by_hand(tmp_path / "last.ckpt")
    monkeypatch.setattr(checkpoint_io, "_replace", disk_is_full)

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        with pytest.raises(OSError, match="No space"):
            write_parts({"rest": {"global_step": 7}, "rows": {"state_dict/a": (torch.zeros(5, 3), 0)}}, file, None)
    finally:
        dist.destroy_process_group()
    assert sorted(folders(file)) == ["000007", "000007.1"]
    found: Tensor = read(file)["state_dict"]["a"]
    assert torch.equal(found, WEIGHT)
