"""Expert parallelism: every rank has some experts of each layer, and tokens travel to them and back.

Shapes: S rows, D hidden, E experts, F width of an expert, R ranks that share a copy of the model. Rank r of a copy has
the experts r E / R to (r + 1) E / R - 1.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.tensor import DTensor

from s15erav3.model.experts import grouped_swiglu, permuted
from s15erav3.training.shards import own


def exchanged_swiglu(rows: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> Tensor:
    """:func:`grouped_swiglu` with stacks that are sharded over ranks; a collective of the ranks of a copy.

    Rows travel in the dtype in which experts multiply: under autocast to bf16, in bf16. The number of rows that arrive
    depends on the routing, so the host waits for the device once in each layer.

    Args:
        rows: this rank's rows, sorted by expert, (S, D).
        gate_up, down: (E, 2 F, D), (E, D, F), of which each rank has E / R experts.
        ends: one past the last row of each of all E experts, int32, (E,).

    Returns:
        (S, D).
    """
    if torch.is_autocast_enabled(rows.device.type):
        rows = rows.to(torch.get_autocast_dtype(rows.device.type))
    assert isinstance(gate_up, DTensor)
    group = gate_up.device_mesh.get_group(-1)
    counts = ends.diff(prepend=ends.new_zeros(1)).view(group.size(), -1)  # to each rank, for each of its experts
    arriving = torch.empty_like(counts)  # from each rank, for each expert here
    dist.all_to_all_single(arriving, counts, group=group)
    sent, received = torch.stack((counts, arriving)).sum(dim=-1).tolist()

    # They arrive by rank and then expert, and are multiplied by expert and then rank.
    expert = torch.arange(arriving.shape[1], device=rows.device).repeat(len(arriving))
    order = expert.repeat_interleave(arriving.flatten(), output_size=sum(received)).argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    here = permuted(_travel(rows, sent, received, group), order, place)
    made = grouped_swiglu(here, _experts(gate_up), _experts(down), arriving.sum(dim=0).cumsum(0).to(torch.int32))
    return _travel(permuted(made, place, order), received, sent, group)


def _experts(stack: Tensor) -> Tensor:
    """This rank's experts. Their gradient is the sum over a copy's tokens, and every other weight's is the mean over
    all ranks: theirs is made so."""
    assert isinstance(stack, DTensor)
    mesh, part = stack.device_mesh, own(stack)

    def mean(grad: Tensor) -> Tensor:
        grad = grad / mesh.size()
        if mesh.ndim > 1:
            dist.all_reduce(grad, group=mesh.get_group(0))
        return grad

    if part.requires_grad:
        part.register_hook(mean)  # type: ignore[no-untyped-call]
    return part


def _travel(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    """Send the first ``sent[0]`` rows to the first rank and so on; the gradient travels the other way."""
    return all_to_all_single_autograd(rows.contiguous(), received, sent, group)
