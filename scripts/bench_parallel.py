"""Time of a training step against the imbalance of ranks, with expert parallelism and with DDP; memory of a rank.

Routing is forced: even, by Zipf's law with growing exponents, all tokens to the first experts. So loads are known, and
what a step takes depends on them alone. Ranks meet in every layer with experts; a step takes as long as the busiest
rank. Each rank is one process with one thread (gloo), or with one GPU (NCCL), in turns within one run.

    python scripts/bench_parallel.py [--ranks 2] [--model small] [--experts e16] [--batch 1] [--rounds 25] [--out FILE]

Skewed loads are fewer and larger products, which are faster; DDP, whose ranks multiply their own tokens, shows that
alone. *Wait* is what expert parallelism takes more, to its even load, than DDP to its own: the median over turns, in
each of which every load and form had one step, with the 95 % interval of that median.

Prints a table; ``--out`` also writes it as JSON. Ranks must have a core or a GPU each: on a shared one they do not
wait for each other, as the one with fewer tokens leaves its time to the others.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hf_twin import load_config
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from s15erav3.balancing import Forced
from s15erav3.balancing.base import max_over_ranks, stack_loads, sum_over_ranks
from s15erav3.balancing.diagnostics import max_violation, rank_loads
from s15erav3.cores import usable_cores
from s15erav3.model import Transformer, count_parameters, routers
from s15erav3.training.losses import chunked_cross_entropy
from s15erav3.training.sharded import shard
from s15erav3.training.shards import own

LOADS = {
    "even": Forced("even"),
    **{f"zipf, exponent {exponent}": Forced("zipf", exponent) for exponent in (0.0, 0.5, 1.0, 2.0)},
    "single": Forced("single"),
}
FORMS = ("expert_parallel", "ddp")


def build(form: str, args: argparse.Namespace, device: torch.device) -> nn.Module:
    """The same model in one of the ``FORMS``."""
    torch.manual_seed(0)
    net = Transformer(load_config(args.model, args.experts, 4096)).to(device)
    if form == "ddp":
        return DistributedDataParallel(net)
    shard(net, device, bf16=False, expert_parallel=True)
    return net


def measure(args: argparse.Namespace, device: torch.device) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """One row for each load: MaxVio of experts and of ranks, and median seconds of a step in each form; and the bytes
    of weights, gradients and optimizer state that the rank with the most holds in each form."""
    nets = {form: build(form, args, device) for form in FORMS}
    optimizers = {form: torch.optim.AdamW(net.parameters(), lr=1e-4) for form, net in nets.items()}
    generator = torch.Generator().manual_seed(dist.get_rank())
    ids = torch.randint(4096, (args.batch, args.sequence + 1), generator=generator).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def backward(form: str) -> torch.Tensor:
        net = nets[form]
        with autocast:
            out = net(ids[:, :-1])
            head = (net.module if form == "ddp" else net).lm_head.weight
            loss = chunked_cross_entropy(out.hidden.flatten(0, 1), head, ids[:, 1:].flatten(), 512).mean()
        loss.backward()
        return stack_loads(out.routings)

    rows = {name: {form: [] for form in FORMS} for name in LOADS}
    loads = {}
    for turn in range(args.rounds + 1):  # the first turn warms up
        for name, forced in LOADS.items():
            for form, net in nets.items():
                forced.attach(routers(net))
                synchronize(device)
                began = time.perf_counter()
                loads[name] = backward(form)
                optimizers[form].step()
                optimizers[form].zero_grad(set_to_none=True)
                synchronize(device)
                if turn:
                    rows[name][form].append(time.perf_counter() - began)
    found = []
    for name, times in rows.items():
        whole_loads = sum_over_ranks(loads[name])
        found.append(
            {
                "load": name,
                "maxvio": max_violation(whole_loads).mean().item(),
                "rank_maxvio": max_violation(rank_loads(whole_loads, dist.get_world_size())).mean().item(),
                **{form: statistics.median(spent) for form, spent in times.items()},
                "wait": middle([ratio - 1 for ratio in slower(*(slower(times[f], rows["even"][f]) for f in FORMS))]),
            }
        )
    held = {}
    for form, net in nets.items():
        backward(form)  # gradients are there between this and the optimizer's step
        state = optimizers[form].state
        held[form] = largest(sum(bytes_of(p, p.grad, *state[p].values()) for p in net.parameters()), device)
    return found, held


def slower(times: list[float], even: list[float]) -> list[float]:
    """Times over others of the same turns, such as those of the even load."""
    return [time / like for time, like in zip(times, even, strict=True)]


def middle(values: list[float]) -> tuple[float, float, float]:
    """Median and its 95 % interval, between order statistics (normal approximation of the binomial)."""
    ordered, n = sorted(values), len(values)
    below = max(0, int((n - 1.96 * n**0.5) / 2))
    return statistics.median(ordered), ordered[below], ordered[n - 1 - below]


def bytes_of(*tensors: Any) -> int:
    """Bytes of tensors on this rank, of which sharded ones are a part."""
    return sum(own(tensor).nbytes for tensor in tensors if tensor is not None)


def largest(here: int, device: torch.device) -> int:
    """The largest value of all ranks."""
    return int(max_over_ranks(torch.tensor(here, device=device)).item())


def synchronize(device: torch.device) -> None:
    """Wait for this rank's device and for all ranks."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    dist.barrier()


def rank_main(rank: int, port: int, args: argparse.Namespace) -> None:
    """One rank; the first one prints."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    gpus = torch.cuda.device_count() >= args.ranks
    device = torch.device("cuda", rank) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if gpus else "gloo", rank=rank, world_size=args.ranks)
    found, held = measure(args, device)
    if rank == 0:
        report(found, held, args, torch.cuda.get_device_name() if gpus else "CPU")
    dist.barrier()  # a rank that leaves early aborts the others
    dist.destroy_process_group()


def report(found: list[dict[str, Any]], held: dict[str, int], args: argparse.Namespace, device: str) -> None:
    """Print the table, in Markdown, and write the JSON."""
    even = found[0]
    print(f"{args.ranks} ranks ({device}), model={args.model} experts={args.experts}, {args.batch} x {args.sequence}")
    print("| load | MaxVio of experts | of ranks | expert_parallel | to even | ddp | to even | wait |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in found:
        ratios = [row[form] / even[form] for form in FORMS]
        times = " | ".join(f"{row[form] * 1e3:,.0f} ms | {r:.2f}" for form, r in zip(FORMS, ratios, strict=True))
        wait, low, high = row["wait"]
        told = f"{wait:+.0%} ({low:+.0%} to {high:+.0%})" if row is not even else ""
        print(f"| {row['load']} | {row['maxvio']:.2f} | {row['rank_maxvio']:.2f} | {times} | {told} |")
    whole = 16 * count_parameters(load_config(args.model, args.experts, 4096)).total  # fp32, with two moments
    for form, size in held.items():
        computed = whole / (args.ranks if form == "expert_parallel" else 1)
        print(f"{form}: a rank holds {size / 2**20:,.1f} MB of training state; computed {computed / 2**20:,.1f} MB")
    if args.out:
        about = {"device": device, "torch": torch.__version__, **{k: v for k, v in vars(args).items() if k != "out"}}
        args.out.write_text(json.dumps(about | {"rows": found, "bytes": held}, indent=1) + "\n")


def main() -> None:
    """Start the ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--model", default="small")
    parser.add_argument("--experts", default="e16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    places = max(torch.cuda.device_count(), usable_cores())
    if places < args.ranks:
        parser.error(f"--ranks={args.ranks} needs as many GPUs or cores, found {places}; use fewer ranks.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(rank_main, args=(port, args), nprocs=args.ranks)


if __name__ == "__main__":
    main()
