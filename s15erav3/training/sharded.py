"""Fully sharded training (FSDP2; ZeRO-3, arXiv 1910.02054) and expert parallelism as a Lightning strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.optim import Optimizer

from s15erav3.balancing.base import sum_over_ranks
from s15erav3.balancing.diagnostics import rank_loads
from s15erav3.model import RoutedExperts, Transformer, routers
from s15erav3.model.block import Block
from s15erav3.training.exchange import exchanged_swiglu
from s15erav3.training.hosts import group_of_hosts
from s15erav3.training.shards import divided_optimizer_state, whole_optimizer_state, whole_state


def shard(
    net: Transformer, device: torch.device, *, bf16: bool, expert_parallel: bool = False, replicas: int = 1
) -> None:
    """Shard the parameters of a net, whole and equal on every rank, in place; buffers stay whole.

    A block's weights are gathered for its forward pass and again for its backward pass; embedding, head and last norm
    from the forward pass until the end of the backward pass.

    Args:
        bf16: gather blocks in bf16, in which autocast multiplies, and add up gradients in fp32. Routers, embedding and
            head are gathered in fp32.
        expert_parallel: never gather routed experts. Each rank keeps its experts, and tokens travel to them.
        replicas: number of copies of the net, each of which is divided over R / replicas consecutive of all R ranks.
    """
    ranks = dist.get_world_size()
    if replicas > 1:
        mesh = init_device_mesh(device.type, (replicas, ranks // replicas), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(device.type, (ranks,))
    staying = divide_experts(net, mesh) if expert_parallel else set()
    policy = MixedPrecisionPolicy()
    if bf16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for router in routers(net):
            fully_shard(router, mesh=mesh)
    for block in [module for module in net.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=staying)
    fully_shard(net, mesh=mesh, ignored_params=staying)


def divide_experts(net: Transformer, mesh: DeviceMesh) -> set[nn.Parameter]:
    """Keep E / R experts of each layer on each of the R ranks of a copy; their tokens travel. Return the stacks."""
    stacks, placements = set(), [*[Replicate()] * (mesh.ndim - 1), Shard(0)]
    for experts in [module for module in net.modules() if isinstance(module, RoutedExperts)]:
        experts.compute = exchanged_swiglu
        for name, stack in list(experts.named_parameters()):
            part = distribute_tensor(stack.detach(), mesh, placements, src_data_rank=None)
            sharded = nn.Parameter(part, requires_grad=stack.requires_grad)
            setattr(experts, name, sharded)
            stacks.add(sharded)
    return stacks


class ShardedStrategy(DDPStrategy):
    """One process for each device, as in DDP, each with a part of the weights, gradients and optimizer state.

    Gradients are averaged over ranks as in DDP, in every micro-batch, so that no rank holds a whole gradient.
    The first rank gathers and writes checkpoints, or every rank writes its part; read, both are those of a single
    process, of which every rank keeps its part. So a run can be resumed on any number of ranks, and by any strategy.

    Args:
        expert_parallel: keep routed experts where they are, and let tokens travel to them; see :func:`shard`.
        replicas: number of copies of the model. Weights and tokens travel within a copy, gradients between copies.
        own_parts: every rank writes its part of a checkpoint.
    """

    def __init__(self, expert_parallel: bool = False, replicas: int = 1, own_parts: bool = False) -> None:
        super().__init__()
        self.expert_parallel, self.replicas, self.own_parts = expert_parallel, replicas, own_parts
        self._writing: Any = None

    def model_to_device(self) -> None:
        """Shard the net, then move the rest: a device never holds more than its part and one block."""
        module: Any = self.lightning_module
        bf16 = self.precision_plugin.precision == "bf16-mixed"
        by_experts, copies = self.expert_parallel, self.replicas
        shard(module.net, self.root_device, bf16=bf16, expert_parallel=by_experts, replicas=copies)
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Wrap nothing: the sharded blocks communicate themselves."""

    @property
    def needs_own_loads(self) -> bool:
        """Whether :meth:`rank_loads` needs the loads of each rank: tokens stay within one of several copies."""
        return self.expert_parallel and self.replicas > 1

    def rank_loads(self, loads: Tensor, own_loads: Tensor | None) -> Tensor:
        """Tokens that travelled to each of R ranks, (L, R); a collective if there are several copies.

        Args:
            loads, own_loads: of a step, of all ranks and of this one, (L, E).
        """
        ranks = self.world_size // self.replicas
        if own_loads is None:
            return rank_loads(loads, ranks)
        sent = rank_loads(own_loads, ranks)
        received = sent.new_zeros(len(sent), self.replicas, ranks)
        received[:, self.global_rank // ranks] = sent
        return sum_over_ranks(received).flatten(1)

    def teardown(self) -> None:
        """As the base classes, but leave the weights where they are: half gathered, as after an error in a collective,
        they cannot be moved, and Lightning's attempt would hide that error."""
        assert self.cluster_environment is not None and self.accelerator is not None
        for part in (self.cluster_environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            part.teardown()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Divided tensors if every rank writes its part; else whole ones on the host, on the first rank only."""
        module = self.lightning_module
        assert module is not None
        if self.own_parts:
            return module.state_dict(keep_vars=True)  # in which a parameter with two names is one
        return whole_state(module, host=True, keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As :meth:`lightning_module_state_dict`."""
        if self.own_parts:
            return optimizer.state_dict()
        return whole_optimizer_state(optimizer.state_dict(), self.is_global_zero)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Called by all ranks."""
        if not self.own_parts:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        files: Any = self.checkpoint_io
        module: Any = self.lightning_module
        self._writing = self._writing or group_of_hosts(module.trainer, for_a_thread=True)
        files.save_parts(checkpoint, filepath, self._writing)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Keep this rank's part of whole tensors."""
        states = [
            divided_optimizer_state(state, optimizer)
            for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True)
        ]
        super().load_optimizer_state_dict({"optimizer_states": states})
