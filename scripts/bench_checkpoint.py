"""Time what a checkpoint costs training: written at once, and in the background as runs on a GPU do it.

Weights of a model and AdamW's two moments are saved several times in turn; medians.

    python scripts/bench_checkpoint.py [--model original] [--experts original] [--device cpu] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from s15erav3.cli.trust import conf_dir
from s15erav3.model import ModelConfig, Transformer
from s15erav3.runs.checkpoint_io import WholeFileIO, write


def main() -> None:
    """Print gigabytes, seconds for which training stops, and seconds until the file is on the disk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="original")
    parser.add_argument("--experts", default="original")
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    saved = payload(args.model, args.experts, args.vocab_size, args.device)
    size = sum(t.nbytes for part in saved.values() for t in part.values())
    seconds: dict[str, list[float]] = {"at once": [], "in the background": [], "until written": []}
    files = WholeFileIO(background=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        file = Path(folder) / "last.ckpt"
        for _ in range(args.times + 1):
            began = now(args.device)
            write(saved, file)
            seconds["at once"].append(now(args.device) - began)
            began = now(args.device)
            files.save_checkpoint(saved, file)
            seconds["in the background"].append(now(args.device) - began)
            files.finish()
            seconds["until written"].append(now(args.device) - began)
        files.teardown()
    once, background, written = (statistics.median(times[1:]) for times in seconds.values())  # without the warm-up
    print(f"{args.model}, {args.experts}: {size / 1e9:.2f} GB on {args.device}, median of {args.times}")
    print(f"written at once: training waits {once:.3f} s")
    share = f"{background / once:.2f} of it"
    print(f"in the background: training waits {background:.3f} s, {share}; {written:.3f} s to the disk")


def payload(model: str, experts: str, vocab_size: int, device: str) -> dict[str, Any]:
    """The tensors of a checkpoint: weights and two moments of each."""
    settings: dict[str, Any] = {"vocab_size": vocab_size}
    for group, name in (("model", model), ("experts", experts)):
        settings |= yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text())
    net = Transformer(ModelConfig.from_dict(settings)).to(device)
    weights = dict(net.named_parameters())
    moments = {f"{name}.{of}": torch.randn_like(w) for name, w in weights.items() for of in ("first", "second")}
    return {"state_dict": weights, "optimizer": moments}


def now(device: str) -> float:
    """Seconds, once the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
