"""Checkpoint files: read without executing anything, found in a run's folder."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError, one_line
from s15erav3.files import at_home
from s15erav3.model import ConfigError, ModelConfig, Transformer, count_parameters
from s15erav3.runs.parts import joined

Payload = dict[str, Any]


def load_checkpoint(path: Path) -> Payload:
    """Read a checkpoint of this program, bit-exact as it was written; only tensors and plain containers are accepted.

    Raises:
        UserError: there is no such file, it is truncated or damaged, it contains code, or another program wrote it.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; give a .ckpt file or a run's folder.")
    if not is_archive(path):
        raise UserError(
            f"{path} is not a checkpoint of s15erav3, or it is truncated; nothing of it was "
            "executed. Give another .ckpt file."
        )
    if damage := damaged(path):
        raise UserError(f"{path} is damaged: {damage}. Give another .ckpt file.")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was refused: it holds objects other than tensors and plain containers, and loading those would "
            "execute its code. Give a checkpoint of s15erav3."
        ) from error
    except Exception as error:  # torch's error for a file of another program may be of any type
        raise UserError(f"{path} is damaged: {one_line(error)[:150]}. Give another .ckpt file.") from error
    if not _is_ours(payload):
        raise UserError(f"{path} is not a checkpoint of s15erav3: it lacks the description of its run.")
    return joined(payload, path)


def is_archive(path: Path) -> bool:
    """Return whether a file ends as a zip archive does."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # raised for an end that refers to several disks
        return False


def damaged(path: Path) -> str:
    """Return a description of the damage to a checkpoint file; empty if its bytes are intact.

    torch checks nothing on reading, but its files are zip archives, which contain a CRC-32 of each part.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(p.compress_type != zipfile.ZIP_STORED or p.file_size != p.compress_size for p in parts):
                return "its parts are compressed, unlike a checkpoint's"
            if any(p.external_attr for p in parts):
                return "its parts have attributes, unlike a checkpoint's"  # torch skips a part that is a directory
            if sum(p.file_size for p in parts) > path.stat().st_size:
                return "its parts are larger than the file"
            broken = archive.testzip()
            return f"the checksum of its part {broken} is wrong" if broken else ""
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        struct.error,
    ) as error:
        return one_line(error)[:150] or type(error).__name__


def _is_ours(payload: Any) -> bool:
    """Return whether a checkpoint has the structure that this program writes."""
    if not isinstance(payload, dict) or not isinstance(payload.get("run"), dict):
        return False
    run, state, step = payload["run"], payload.get("state_dict"), payload.get("global_step")
    return (
        isinstance(step, int)
        and step >= 0
        and isinstance(state, dict)
        and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items())
        and all(isinstance(run.get(part), dict) for part in ("config", "model", "tokenizer"))
        and isinstance(run.get("sequence_length"), int)
        and run["sequence_length"] > 1
        and all(isinstance(run["config"].get(group), dict) for group in ("data", "balancing"))
        and isinstance(run["config"]["data"].get("path"), str | None)
    )


def load_model(payload: Payload, path: Path) -> tuple[Transformer, Tokenizer]:
    """Build the net that a checkpoint describes, with its weights, and its tokenizer.

    Raises:
        UserError: description and weights do not match.
    """
    try:
        config = ModelConfig.from_dict(payload["run"]["model"])
        described = count_parameters(config).total
        storages = {storage.data_ptr(): storage.nbytes() for storage in map(_storage, payload["state_dict"].values())}
        held = sum(storages.values())
        if described > held:  # one byte or more each: checked before memory is allocated
            raise ConfigError(f"it has {described:,} parameters, and the file holds {held:,} bytes of them")
        if (length := payload["run"]["sequence_length"]) > config.max_position_embeddings:
            raise ConfigError(
                f"sequence_length={length} exceeds max_position_embeddings={config.max_position_embeddings}"
            )
        net = Transformer(config)
    except (ConfigError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path} describes a model that this version cannot build: {error}.") from error
    load_weights(net, payload, path)
    return net, load_tokenizer(payload, path)


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


PROBE = "1st Inns\n19.5 overs\n\u00c9tienne's caf\u00e9: FOUR!  (\u4e2d\u6587) \U0001f3cf\tend"


def load_tokenizer(payload: Payload, path: Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint.

    Raises:
        UserError: it cannot be read, does not reproduce the text that it encodes, or has another vocabulary than the
            model.
    """
    try:
        tokenizer = Tokenizer.from_state(payload["run"]["tokenizer"])
        ids, entries = tokenizer.encode(PROBE), payload["run"]["model"]["vocab_size"]
        if tokenizer.n_vocab != entries or not 0 <= tokenizer.end_of_text < entries:
            raise ValueError(f"it has {tokenizer.n_vocab} entries, and the model {entries}")
        if tokenizer.decode(ids) != PROBE:
            raise ValueError("encoding and decoding changes a text")
        return tokenizer
    except (UserError, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        said = str(error) if isinstance(error, UserError) else repr(error)
        raise UserError(
            f"{path} has a tokenizer that cannot be used ({said[:300]}); give another .ckpt file."
        ) from error


def load_weights(net: Transformer, payload: Payload, path: Path) -> None:
    """Copy the weights of a checkpoint into ``net``.

    Raises:
        UserError: the checkpoint has another architecture; the message names the first difference.
    """
    wanted = net.state_dict()
    found = {k.removeprefix("net."): v for k, v in payload["state_dict"].items() if k.startswith("net.")}
    for key in sorted(wanted.keys() | found.keys()):
        shapes = [tuple(state[key].shape) if key in state else "absent" for state in (wanted, found)]
        if shapes[0] == shapes[1] and found[key].is_floating_point() != wanted[key].is_floating_point():
            raise UserError(f"{path} has weights that do not fit: {key} is of the type {found[key].dtype}.")
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path} has another architecture: {key} is {shapes[1]} there and {shapes[0]} in the configured model; "
                "use the settings that it was trained with."
            )
    try:
        net.load_state_dict(found)
    except RuntimeError as error:
        raise UserError(f"{path} has weights that do not fit: {one_line(error)[:200]}.") from error


def candidates(run_dir: Path) -> list[Path]:
    """Return the checkpoint files of a run, the most recently written first."""
    files = (run_dir / "checkpoints").glob("*.ckpt")
    return sorted(
        (f for f in files if f.is_file() and not f.name.startswith(".")), key=lambda f: f.stat().st_mtime, reverse=True
    )


def find_checkpoint(place: str) -> Path:
    """Return the file that ``place`` refers to: a file itself, or the best (else the last) checkpoint of a run.

    Raises:
        UserError: there is none, or it is damaged and another checkpoint of the run is not.
    """
    path = at_home(place)
    if not path.is_dir():
        return path
    files = [path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt", *candidates(path)]
    files = [file for file in dict.fromkeys(files) if file.is_file()]
    if not files:
        raise UserError(f"{path} holds no checkpoint below checkpoints/; give a .ckpt file or another run's folder.")
    found, *others = files
    if is_archive(found) and not damaged(found):
        return found
    intact = next((file for file in others if is_archive(file) and not damaged(file)), None)
    if intact is not None:
        raise UserError(f"{found} is damaged or truncated; {intact.name} is intact: give {intact}.")
    return found
