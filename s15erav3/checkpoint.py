"""Checkpoint files: written whole, read without executing anything, found in a run's folder."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError
from s15erav3.files import whole
from s15erav3.model import ConfigError, ModelConfig, Transformer

Payload = dict[str, Any]


class WholeFileIO(TorchCheckpointIO):
    """Save beside the target, flush to the disk, rename: a kill leaves the old file or the new one."""

    def save_checkpoint(self, checkpoint: Payload, path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target, binary=True, durable=True) as file:
            torch.save(checkpoint, file)


def load_checkpoint(path: Path) -> Payload:
    """Read a checkpoint of this program; only tensors and plain containers are accepted.

    Raises:
        UserError: there is no such file, it is cut short, it holds code, or another program made it.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; give a .ckpt file or a run's folder.")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is not a checkpoint of s15erav3, or it was cut short: it does not end as one; nothing of it was "
            "executed. Give another .ckpt file."
        )
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was refused: it holds objects other than tensors and plain containers, and loading those would "
            "execute its code. Give a checkpoint of s15erav3."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())[:150]}. Give another .ckpt file.") from error
    if not isinstance(payload, dict) or not {"run", "state_dict", "global_step"} <= payload.keys():
        raise UserError(f"{path} is not a checkpoint of s15erav3: it lacks the description of its run.")
    return payload


def load_model(payload: Payload, path: Path) -> tuple[Transformer, Tokenizer]:
    """Build the net that a checkpoint describes, with its weights, and its tokenizer.

    Raises:
        UserError: description and weights do not belong together.
    """
    try:
        net = Transformer(ModelConfig.from_dict(payload["run"]["model"]))
    except (ConfigError, TypeError) as error:
        raise UserError(f"{path} describes a model that this version cannot build: {error}.") from error
    load_weights(net, payload, path)
    return net, Tokenizer.from_state(payload["run"]["tokenizer"])


def load_weights(net: Transformer, payload: Payload, path: Path) -> None:
    """Copy the weights of a checkpoint into ``net``.

    Raises:
        UserError: it has another architecture; the first difference is named.
    """
    wanted = net.state_dict()
    found = {k.removeprefix("net."): v for k, v in payload["state_dict"].items() if k.startswith("net.")}
    for key in sorted(wanted.keys() | found.keys()):
        shapes = [tuple(state[key].shape) if key in state else "absent" for state in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path} has another architecture: {key} is {shapes[1]} there and {shapes[0]} in the configured model; "
                "take the settings that it was trained with."
            )
    net.load_state_dict(found)


def candidates(run_dir: Path) -> list[Path]:
    """Checkpoint files of a run, the most recently written first."""
    files = (run_dir / "checkpoints").glob("*.ckpt")
    return sorted((f for f in files if not f.name.startswith(".")), key=lambda f: f.stat().st_mtime, reverse=True)


def find_checkpoint(place: str) -> Path:
    """The file that ``place`` means: a file itself, or the best (else the last) checkpoint of a run.

    Raises:
        UserError: there is none.
    """
    path = Path(place).expanduser()
    if not path.is_dir():
        return path
    names = [path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt", *candidates(path)]
    for file in names:
        if file.is_file():
            return file
    raise UserError(f"{path} holds no checkpoint below checkpoints/; give a .ckpt file or another run's folder.")
