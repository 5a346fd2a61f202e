"""Sharded tensors: every rank keeps some rows of a weight, of its gradient and of its optimizer state.

A sharded tensor is a DTensor on a mesh of all ranks, split along its first dimension over the ranks of a copy of the
model; a plain tensor is whole on every rank. All functions leave plain tensors as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from s15erav3.model import Transformer


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; a collective, called by all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def from_own(rows: Tensor, like: Tensor) -> Tensor:
    """The tensor sharded as ``like``, of which this rank has these rows."""
    if not isinstance(like, DTensor):
        return rows
    return DTensor.from_local(rows, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a tensor that is whole on every rank as ``like`` is; without communication."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def whole_state(module: nn.Module, *, host: bool = False, keep: bool = True) -> dict[str, Tensor]:
    """The state dict with whole tensors; called by all ranks.

    A parameter with two names is one tensor here too, which a checkpoint stores once.

    Args:
        host: move each tensor to the host as soon as it is gathered, so that a device never holds more than one.
        keep: whether this rank needs the state; without, it is empty.
    """
    gathered: dict[Tensor, Tensor | None] = {}
    state = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor not in gathered:
            full = whole(tensor.detach())
            gathered[tensor] = (full.cpu() if host else full) if keep else None
        if (kept := gathered[tensor]) is not None:
            state[name] = kept
    return state


def has_shards(module: nn.Module) -> bool:
    """Whether any parameter is sharded."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def whole_net(net: Transformer) -> Transformer:
    """The net itself, or a copy with whole weights if it is sharded, in evaluation mode; called by all ranks."""
    if not has_shards(net):
        return net
    with torch.device("meta"):  # draws no weights, and so no random numbers
        copy = Transformer(net.config)
    copy.load_state_dict(whole_state(net), assign=True)
    return copy.eval()


def whole_optimizer_state(state: dict[str, Any], keep: bool) -> dict[str, Any]:
    """An optimizer's state dict with whole tensors on the host; empty on ranks that do not ``keep`` it."""
    gathered: dict[Any, dict[str, Any]] = {}
    for number, values in state["state"].items():
        for name, value in values.items():
            full = whole(value) if isinstance(value, Tensor) else value
            if keep:
                gathered.setdefault(number, {})[name] = full.cpu() if isinstance(full, Tensor) else full
    return {"state": gathered, "param_groups": state["param_groups"]} if keep else {}


def divided_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Shard a state dict of whole tensors as the parameters of ``optimizer`` are; without communication."""
    parameters = dict(
        pair
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
        for pair in zip(saved["params"], group["params"], strict=True)
    )
    return {
        "param_groups": state["param_groups"],
        "state": {
            number: {
                name: divided(value, like) if isinstance(value, Tensor) and value.ndim else value
                for name, value in values.items()
            }
            for number, values in state["state"].items()
            for like in [parameters[number]]
        },
    }
