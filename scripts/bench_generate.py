"""Time generation: latent cache, no cache, and transformers' generate with its own cache, on the same weights.

Greedy, fp32, in turns within one run, by one CPU thread and its own time, or on a GPU and by the clock. Prints
tokens/s (medians), the ratios, bytes of cache per token, and whether all wrote the same tokens. With --checkpoint,
speculation on a trained model instead; with --checkpoint and --int8, the bits per byte of its validation text, decoded
with fp32 weights and with 8 bits per weight.

    python scripts/bench_generate.py [--model small] [--experts e8] [--new-tokens 512] [--batch 1 8] [--rounds 3]
    python scripts/bench_generate.py --checkpoint RUN_DIR [--new-tokens 200] [--int8]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from hf_twin import hf_twin, load_config, seconds
from torch.nn.functional import cross_entropy

from s15erav3.data.datamodule import CommentaryData
from s15erav3.loading import load
from s15erav3.model import Transformer, count_parameters
from s15erav3.model.decode import Decoder
from s15erav3.model.generate import Generated, at_rest, generate
from s15erav3.model.kv_cache import LatentCache
from s15erav3.model.sampling import Sampling
from s15erav3.model.speculate import generate_speculatively

Texts = list[list[int]]


def cached(net: Transformer, prompts: Texts, new: int, **how: bool) -> tuple[Texts, Generated]:
    """Our generation, with all that belongs to it."""
    texts: Texts = [[] for _ in prompts]

    def emit(sequence: int, token: int) -> bool:
        texts[sequence].append(token)
        return True

    settings = {"sampling": Sampling(temperature=0), "seed": 0, "context": len(prompts[0]) + new}
    return texts, generate(net, prompts, emit, max_new_tokens=new, **how, **settings)


def uncached(net: Transformer, prompts: Texts, new: int) -> Texts:
    """The whole sequence read again for every token."""
    with at_rest(net) as device:
        ids = torch.tensor(prompts, device=device)
        for _ in range(new):
            ids = torch.cat((ids, net.logits(net(ids).hidden[:, -1]).argmax(dim=-1, keepdim=True)), dim=1)
    return ids[:, len(prompts[0]) :].tolist()


def compare(args: argparse.Namespace, device: torch.device) -> None:
    """Against transformers and against no cache."""
    config = load_config(args.model, args.experts, args.vocab)
    net = Transformer(config).to(device)
    twin = hf_twin(net).to(device).eval()
    counts = count_parameters(config)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    print(f"model={args.model} experts={args.experts}: {counts.total:,} parameters, {counts.active:,} active")
    print(f"{args.prompt} + {args.new_tokens} tokens, torch {torch.__version__}, {device}, one CPU thread")
    for batch in args.batch:
        prompts = torch.randint(config.vocab_size, (batch, args.prompt)).tolist()

        def theirs(prompts: Texts = prompts) -> Texts:
            ids = torch.tensor(prompts, device=device)
            out = twin.generate(ids, max_new_tokens=args.new_tokens, do_sample=False, pad_token_id=0)
            return out[:, args.prompt :].tolist()

        calls: dict[str, Callable[[Texts], object]] = {"latent cache": lambda p: cached(net, p, args.new_tokens)[0]}
        if args.compile:
            calls["latent cache, compiled"] = lambda p: cached(net, p, args.new_tokens, compiled=True)[0]
        if args.int8:
            calls["latent cache, int8"] = lambda p: cached(net, p, args.new_tokens, int8=True)[0]
        calls["transformers' cache"] = theirs
        if batch == 1:
            calls["no cache"] = lambda p: uncached(net, p, args.new_tokens)
        times: dict[str, list[float]] = {name: [] for name in calls}
        texts: dict[str, object] = {}

        def run(name: str, prompts: Texts = prompts, texts: dict[str, object] = texts) -> None:
            texts[name] = calls[name](prompts)  # noqa: B023

        warm = ([p[:8] for p in prompts], min(32, args.new_tokens))
        cached(net, *warm)
        uncached(net, *warm)
        if args.compile:
            run("latent cache, compiled")
        for _ in range(args.rounds):
            for name in calls:
                times[name].append(seconds(lambda name=name: run(name), clock))
        medians = {name: statistics.median(spent) for name, spent in times.items()}
        _, took = cached(net, *warm)
        ordinary = config.num_layers * config.num_heads * (config.qk_head_dim + config.v_head_dim) * 4
        print(f"batch {batch}: cache {took.cache_bytes_per_token:,} bytes per token (multi-head: {ordinary:,})")
        for name, median in medians.items():
            same = "" if texts[name] == texts["latent cache"] else "  other tokens"
            ratio = f"latent cache {median / medians['latent cache']:.1f} times as fast"
            print(f"  {name:24} {batch * args.new_tokens / median:9,.1f} tokens/s   {ratio}{same}")


def speculation(args: argparse.Namespace, device: torch.device) -> None:
    """A trained model's drafts after some beginnings."""
    saved = load(args.checkpoint)
    net = saved.net.to(device)
    prompts = [[saved.tokenizer.end_of_text, *saved.tokenizer.encode(text)] for text in args.prompts]
    spent: dict[str, list[float]] = {"plain": [], "speculative": []}
    drafted = accepted = tokens = steps = 0
    same = True
    for _ in range(args.rounds):
        plain_seconds = fast_seconds = 0.0
        for prompt in prompts:
            (text,), plain = cached(net, [prompt], args.new_tokens)
            drafts: list[int] = []
            context = len(prompt) + args.new_tokens
            fast = generate_speculatively(
                net, prompt, lambda _, t, d=drafts: d.append(t) or True, max_new_tokens=args.new_tokens, context=context
            )
            same &= drafts == text
            plain_seconds, fast_seconds = plain_seconds + plain.seconds, fast_seconds + fast.seconds
            drafted, accepted = drafted + fast.drafted, accepted + fast.accepted
            tokens, steps = tokens + fast.tokens, steps + fast.steps + 1
        spent["plain"].append(plain_seconds)
        spent["speculative"].append(fast_seconds)
    print(f"{args.checkpoint}: {len(prompts)} prompts, {args.new_tokens} tokens each, {device}, one CPU thread")
    print(f"  drafts accepted: {accepted / drafted:.1%}; {tokens / steps:.2f} tokens per step of the main model")
    plain_median, fast_median = (statistics.median(spent[key]) for key in ("plain", "speculative"))
    print(
        f"  plain {plain_median:.2f} s, speculative {fast_median:.2f} s: {plain_median / fast_median:.2f} times as fast"
    )
    print("  the same tokens" if same else "  OTHER TOKENS")


@torch.inference_mode()
def bits_per_byte(args: argparse.Namespace) -> None:
    """The validation text of a run, decoded 32 tokens at a time after the first of each window."""
    saved = load(args.checkpoint)
    own = {key: value for key, value in saved.config["data"].items() if key != "max_epochs"}
    data = CommentaryData(tokenizer=saved.tokenizer, **own).prepare()
    tokens = torch.from_numpy(data.token_files.part("val").astype("int64"))
    windows = tokens[: len(tokens) // (data.length + 1) * (data.length + 1)].view(-1, data.length + 1)
    for name, int8 in (("fp32", False), ("int8", True)):
        decoder, nats = Decoder(saved.net.eval(), torch.float32, int8=int8), 0.0
        for batch in windows.split(8):
            ids, targets = batch[:, :-1], batch[:, 1:]
            cache = LatentCache(
                saved.net.config, len(ids), data.length, device=ids.device, dtype=torch.float32, static=True
            )
            first = saved.net(ids[:, :1], cache.advance(1)).hidden
            rest = [decoder(part, cache.advance(part.shape[1])) for part in ids[:, 1:].split(32, dim=1)]
            logits = decoder.logits(torch.cat((first, *rest), dim=1)).float()
            nats += cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        size = int(saved.tokenizer.byte_lengths[windows[:, 1:].numpy()].sum())
        print(f"{name}: {nats / size / math.log(2):.5f} bits per byte of {size:,} bytes")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--experts", default="e8")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--checkpoint")
    parser.add_argument(
        "--prompts",
        nargs="+",
        default=["", "1st Inns\n19.5 overs\n", "Kohli comes forward and ", "2nd Inns\n0.1 overs\n"],
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.checkpoint and args.int8:
        bits_per_byte(args)
        return
    (speculation if args.checkpoint else compare)(args, torch.device(args.device))


if __name__ == "__main__":
    main()
