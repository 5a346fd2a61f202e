"""Reading and writing of Hugging Face folders: config, weight shards, tokenizer, model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError, check_number
from s15erav3.files import beside
from s15erav3.interop import hf_config, hf_weights
from s15erav3.interop.hf_tokenizer import read_object, read_tokenizer, write_tokenizer
from s15erav3.model import Transformer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Imported(NamedTuple):
    """Content of a Hugging Face folder."""

    net: Transformer
    tokenizer: Tokenizer
    sequence_length: int
    """Training window length in tokens if the folder states it; else its maximum sequence length."""


def is_hub_folder(path: Path) -> bool:
    """Whether ``path`` looks like a Hugging Face folder rather than a run folder."""
    return (path / "config.json").is_file()


def write_folder(
    folder: Path,
    net: Transformer,
    tokenizer: Tokenizer,
    card: str,
    *,
    sequence_length: int,
    dtype: str,
    max_shard_size: str,
) -> None:
    """Write ``folder`` atomically.

    Args:
        card: content of README.md.
        sequence_length: window length in tokens that the net was trained on.
        dtype: dtype of the tensors, ``float32`` or ``bfloat16``; router biases stay fp32.
        max_shard_size: maximum size of a weight file, such as ``5GB`` or ``500MB``.

    Raises:
        UserError: the folder already exists, or a setting is invalid.
    """
    folder, hub = folder.resolve(), _library("huggingface_hub")
    safetensors = _library("safetensors")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists; choose another folder, or remove it.")
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype} is unknown; choose one of {', '.join(DTYPES)}.")
    end = tokenizer.end_of_text
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    config = hf_config.to_hub(net.config) | {"dtype": dtype, "trained_sequence_length": sequence_length}
    config |= ids | {"pad_token_id": None}  # else transformers would not train the embedding of end-of-text
    tensors = {
        key: value if key.endswith("e_score_correction_bias") else value.to(DTYPES[dtype])
        for key, value in hf_weights.to_hub(net).items()
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with beside(folder) as made:
            made.mkdir()
            _write_json(made / "config.json", config)
            _write_json(made / "generation_config.json", ids)
            write_tokenizer(tokenizer, made, max_length=net.config.max_position_embeddings)
            (made / "README.md").write_text(card)
            try:
                hub.save_torch_state_dict(tensors, made, max_shard_size=max_shard_size)
            except (ValueError, TypeError) as error:
                raise UserError(f"max_shard_size={max_shard_size} must be a size as in 5GB or 500MB.") from error
            mode = (made / "config.json").stat().st_mode
            for file in made.iterdir():
                file.chmod(mode)  # safetensors writes files that only the owner can read
    except (OSError, safetensors.SafetensorError) as error:  # the latter has no strerror
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{folder} cannot be written: {why}; choose another folder.") from error


def read_folder(folder: Path) -> Imported:
    """Load the model of a folder, in fp32, with its tokenizer.

    Raises:
        UserError: it is not a supported DeepseekV3, or it is incomplete.
    """
    config = hf_config.from_hub(_read_json(folder / "config.json"), str(folder / "config.json"))
    tokenizer = read_tokenizer(folder)
    if tokenizer.n_vocab != config.vocab_size:
        raise UserError(
            f"{folder} has a tokenizer of {tokenizer.n_vocab} entries and a config.json with vocab_size="
            f"{config.vocab_size}; they must match; fetch the folder again."
        )
    tensors = _read_tensors(folder)
    ahead = f"model.layers.{config.num_layers}."
    if config.num_nextn_predict_layers and not any(key.startswith(ahead) for key in tensors):
        raise UserError(
            f"{folder} holds no tensor of its num_nextn_predict_layers={config.num_nextn_predict_layers} (transformers "
            "does not save them); set num_nextn_predict_layers to 0 in config.json to do without them."
        )
    net = Transformer(config)
    hf_weights.from_hub(tensors, net, str(folder))
    longest = config.max_position_embeddings
    length = _read_json(folder / "config.json").get("trained_sequence_length", longest)
    check_number(f"{folder / 'config.json'}: trained_sequence_length", length, at_least=1, at_most=longest, whole=True)
    return Imported(net, tokenizer, length)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    safetensors, load_file = _library("safetensors"), _library("safetensors.torch").load_file
    if (folder / INDEX).is_file():
        places = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise UserError(f"{folder / INDEX} has no weight_map from tensors to files; fetch the folder again.")
        files = sorted(set(places.values()))
        if odd := [name for name in files if Path(name).name != name or not name.endswith(".safetensors")]:
            raise UserError(
                f"{folder / INDEX} names {odd[0]!r}: weights must be .safetensors files of the folder itself."
            )
    elif (folder / WEIGHTS).is_file():
        files = [WEIGHTS]
    else:
        raise UserError(f"{folder} holds neither {WEIGHTS} nor {INDEX}; only weights in safetensors can be read.")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(files)} files of weights that its index names, such as "
            f"{missing[0]}; fetch the folder again."
        )
    tensors: dict[str, Tensor] = {}
    for name in files:
        try:
            tensors |= load_file(folder / name)
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{folder / name} is damaged: {error}; fetch the folder again.") from error
    return tensors


def _library(name: str) -> Any:
    """Import an optional library."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"Hugging Face folders need the package {name}; pip install 's15erav3[hf]'.") from error


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{file} does not exist; give a folder of a Hugging Face DeepseekV3.")
    return read_object(file)
