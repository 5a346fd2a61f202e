"""Time a training step against transformers' DeepseekV3 with the same weights.

Forward, backward, clipping and fused AdamW, fp32 on the CPU with one thread (bf16 autocast on a GPU and with --bf16),
eager and with compiled blocks, in turns within one run; prints medians, their ratios and the machine's GEMM ceiling,
measured in the same turns. On the CPU it is the thread's own time that counts: other processes do not lengthen it. Page
faults are printed too: with MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ at 17179869184 glibc keeps freed memory.

    python scripts/bench_step.py [--model nano] [--experts e8] [--batch 8] [--sequence 256] [--rounds 9] [--bf16]

With ``--recompute``, steps with activation checkpointing are timed too, and the bytes that forward passes keep printed.
With ``--guard``, what is compared is the module's own step with and without the guard against non-finite numbers.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from bench_guard import bench as bench_guard
from hf_twin import hf_twin, load_config, seconds
from torch import Tensor, nn

from s15erav3.model import Transformer, count_parameters, training_flops_per_token
from s15erav3.session.compiling import compile_blocks, compile_seconds
from s15erav3.training.losses import chunked_cross_entropy

COMPILED, GEMM = "s15erav3, compile=true", "gemm"


def step_of(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], ids: Tensor, bf16: bool) -> Callable[[], None]:
    """One training step of ``model`` on windows (B, T + 1), with bf16 autocast if asked."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            value = loss(ids[:, :-1], ids[:, 1:])
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ids.is_cuda:
            torch.cuda.synchronize()

    return step


def kept(loss: Callable[[Tensor, Tensor], Tensor], ids: Tensor, bf16: bool) -> float:
    """MB that a forward pass allocates and that are still there at its end, for the backward pass."""
    autocast = torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16)
    with torch.profiler.profile(profile_memory=True) as profile, autocast:
        graph = loss(ids[:, :-1], ids[:, 1:])
    name = "self_device_memory_usage" if ids.is_cuda else "self_cpu_memory_usage"
    held = sum(getattr(event, name) for event in profile.events() or ())
    del graph
    return held / 2**20


def gemm(device: torch.device, bf16: bool) -> Callable[[], None]:
    """Ten products of 1024-wide matrices, in the precision of the step: the machine's ceiling."""
    left, right = torch.randn(2, 1024, 1024, device=device).to(torch.bfloat16 if bf16 else None)

    def products() -> None:
        for _ in range(10):
            torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return products


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--experts", default="e8")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--guard", action="store_true")
    args = parser.parse_args()
    bf16 = args.bf16 or args.device == "cuda"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(args.device)

    config = load_config(args.model, args.experts, args.vocab)
    ids = torch.randint(config.vocab_size, (args.batch, args.sequence + 1), device=device)
    if args.guard:
        bench_guard(config, ids, args.rounds)
        return
    ours = Transformer(config).to(device)
    compiled = copy.deepcopy(ours)
    compile_blocks(compiled, args.device)

    def loss_of(net: Transformer, compiled: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
        def loss(inputs: Tensor, targets: Tensor) -> Tensor:
            hidden = net(inputs).hidden.flatten(0, 1)
            head, of = net.lm_head.weight, targets.flatten()
            return chunked_cross_entropy(hidden, head, of, 512, compiled=compiled) / targets.numel()

        return loss

    steps = {
        "s15erav3": step_of(ours, loss_of(ours), ids, bf16),
        COMPILED: step_of(compiled, loss_of(compiled, compiled=True), ids, bf16),
    }
    for parts in ("experts", "full") if args.recompute else ():
        less = copy.deepcopy(ours)
        less.recompute(parts)
        steps[f"s15erav3, recomputes {parts}"] = step_of(less, loss_of(less), ids, bf16)
        print(f"recomputes {parts}: {kept(loss_of(less), ids, bf16):,.0f} of {kept(loss_of(ours), ids, bf16):,.0f} MB")
    for implementation in ("grouped_mm", "eager"):
        theirs = hf_twin(ours, experts_implementation=implementation).to(device).train()

        def their_loss(inputs: Tensor, targets: Tensor, model: nn.Module = theirs) -> Tensor:
            logits = model(input_ids=inputs, use_cache=False).logits
            return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

        steps[f"transformers, {implementation} experts"] = step_of(theirs, their_loss, ids, bf16)

    clock = time.perf_counter if ids.is_cuda else time.process_time
    times: dict[str, list[float]] = {name: [] for name in [*steps, GEMM]}
    faults: dict[str, list[int]] = {name: [] for name in times}
    for round_ in range(args.rounds + 2):
        for name, step in {**steps, GEMM: gemm(device, bf16)}.items():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            spent = seconds(step, clock)
            if round_ >= 2:  # two rounds of warm-up
                times[name].append(spent)
                faults[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    tokens = args.batch * args.sequence
    flops = training_flops_per_token(config, args.sequence) * tokens
    counts = count_parameters(config)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    ceiling = 10 * 2 * 1024**3 / medians.pop(GEMM)
    print(f"model={args.model} experts={args.experts}: {counts.total:,} parameters, {counts.active:,} active")
    print(f"{args.batch} x {args.sequence} tokens, torch {torch.__version__}, {device}, one CPU thread")
    print(
        f"GEMM ceiling of this machine: {ceiling / 1e9:,.0f} GFLOP/s; compiling took {compile_seconds(compiled):.1f} s"
    )
    best = min(median for name, median in medians.items() if "transformers" in name)
    for name, median in medians.items():
        speed = f"{tokens / median:9,.0f} tokens/s  {flops / median / ceiling:4.0%} of the ceiling"
        paged = f"{statistics.median(faults[name]):7,.0f} page faults"
        print(f"{name:34} {median * 1e3:8.1f} ms/step  {speed}  {paged}  {median / best:.2f}")
    print("last column: time over that of the faster transformers")


if __name__ == "__main__":
    main()
