"""Conversion between our parameters and DeepSeek's tensors as published on the hub.

Shapes: E experts, F width of an expert, D hidden.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from s15erav3.errors import UserError
from s15erav3.model import ModelConfig, Transformer


def hub_key(name: str, config: ModelConfig) -> str:
    """Return the hub's name of one of our parameters or buffers; stacked experts get no expert number here.

    Multi-token-prediction blocks continue the layer numbering of the main model.
    """
    if name == "lm_head.weight":
        return name
    if found := re.match(r"mtp\.(\d+)\.(block\.)?(.*)", name):
        rest = re.sub(r"^norm\.", "shared_head.norm.", found[3]) if not found[2] else found[3]
        name = f"layers.{config.num_layers + int(found[1])}.{rest}"
    name = name.replace(".mlp.router.weight", ".mlp.gate.weight")
    return "model." + name.replace(".mlp.router.bias", ".mlp.gate.e_score_correction_bias")


def shared_copies(config: ModelConfig) -> dict[str, str]:
    """Map each tensor that the hub duplicates for a multi-token-prediction block to the key of the original."""
    copies = {}
    for layer in range(config.num_layers, config.num_layers + config.num_nextn_predict_layers):
        copies[f"model.layers.{layer}.embed_tokens.weight"] = "model.embed_tokens.weight"
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        copies[f"model.layers.{layer}.shared_head.head.weight"] = head
    return copies


def to_hub(net: Transformer) -> dict[str, Tensor]:
    """Return all tensors under the hub's keys, one per matrix and expert; a tied head is omitted."""
    tensors: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        key = hub_key(name, net.config)
        stem, _, kind = key.rpartition(".")
        if kind == "gate_up_proj":  # (E, 2 F, D)
            for i, expert in enumerate(value):
                gate, up = expert.chunk(2)
                tensors[f"{stem}.{i}.gate_proj.weight"], tensors[f"{stem}.{i}.up_proj.weight"] = gate, up
        elif stem.endswith(".mlp.experts"):  # (E, D, F)
            tensors |= {f"{stem}.{i}.down_proj.weight": expert for i, expert in enumerate(value)}
        elif name != "lm_head.weight" or not net.config.tie_word_embeddings:
            tensors[key] = value
    tensors |= {copy: tensors[original] for copy, original in shared_copies(net.config).items()}
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}


def from_hub(tensors: dict[str, Tensor], net: Transformer, where: str) -> None:
    """Copy the hub's tensors into ``net``.

    Args:
        where: name of the folder in messages.

    Raises:
        UserError: a tensor is missing, unexpected or has the wrong shape, or a copy of a shared tensor differs.
    """
    left, config = dict(tensors), net.config

    def take(key: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
        if key not in left:
            raise UserError(f"{where} lacks the tensor {key}; its config.json and its weights do not belong together.")
        if left[key].shape != shape:
            raise UserError(
                f"{where} has {key} of shape {tuple(left[key].shape)}, not {tuple(shape)} as in config.json."
            )
        if left[key].dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            raise UserError(f"{where} has {key} in {left[key].dtype}; only float32, bfloat16 and float16 can be read.")
        return left.pop(key)

    for copy, original in shared_copies(config).items():
        if copy in left and not torch.equal(left.pop(copy), tensors.get(original, torch.empty(0))):
            raise UserError(
                f"{where} holds {copy} that differs from {original}; this model shares the two, so it cannot be read."
            )
    if config.tie_word_embeddings:
        left.pop("lm_head.weight", None)
    for name, target in net.state_dict().items():
        key = hub_key(name, config)
        stem, _, kind = key.rpartition(".")
        if stem.endswith(".mlp.experts"):
            parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
            count, rows, columns = target.shape
            shape = (rows // len(parts), columns)
            value = torch.stack(
                [torch.cat([take(f"{stem}.{i}.{part}.weight", shape) for part in parts]) for i in range(count)]
            )
        elif name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        else:
            value = take(key, target.shape)
        target.copy_(value)
    if left:
        raise UserError(
            f"{where} holds {len(left)} tensors that its config.json has no place for, such as {min(left)}; only plain "
            "DeepseekV3 weights can be read."
        )
