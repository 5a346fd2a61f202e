"""Check that vLLM gives an exported folder the same probabilities as s15erav3.

Scores one text by both, offline, token by token, and prints how far the log-probabilities lie apart; then what vLLM
writes greedily. vLLM is no dependency of this project: install it beside it, on a machine with a GPU.

    s15erav3 export RUN OUT
    python scripts/check_vllm.py OUT [--text "..."] [--dtype float32] [--tolerance 0.001]

Exits with 1 if a token's log-probability differs by more than the tolerance, in nats; bfloat16 needs about 0.1.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from s15erav3.loading import load

TEXT = "Straight on the pads, worked away to deep square leg for a single. Kohli will keep the strike."


def own_scores(folder: str, text: str) -> tuple[list[int], torch.Tensor]:
    """Ids of ``text`` (T) and the log-probability of each but the first (T - 1), by this project's model."""
    saved = load(folder)
    ids = saved.tokenizer.encode(text)
    if not 1 < len(ids) < saved.sequence_length:
        raise SystemExit(f"error: the text has {len(ids)} tokens; it needs 2 to {saved.sequence_length - 1}.")
    net = saved.net.eval()
    with torch.no_grad():
        logits = net.lm_head(net(torch.tensor([ids[:-1]])).hidden[0]).float()
    return ids, logits.log_softmax(-1).gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)


def vllm_scores(engine: Any, ids: list[int], settings: Any) -> torch.Tensor:
    """Log-probabilities (T - 1) of the same tokens by vLLM."""
    (result,) = engine.generate([{"prompt_token_ids": ids}], settings(temperature=0, max_tokens=1, prompt_logprobs=0))
    places = result.prompt_logprobs[1:]  # the first token has no context
    return torch.tensor([place[token].logprob for token, place in zip(ids[1:], places, strict=True)])


def main() -> None:
    """Score, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise SystemExit(
            f"error: vLLM cannot be imported ({error}); install it as its own documentation says."
        ) from None
    ids, ours = own_scores(args.folder, args.text)
    engine = LLM(model=args.folder, dtype=args.dtype, enforce_eager=True)
    apart = (vllm_scores(engine, ids, SamplingParams) - ours).abs()
    worst = int(apart.argmax())
    print(f"{len(ours)} tokens; largest difference {float(apart[worst]):.2e} nats, at token {worst + 1}")
    (written,) = engine.generate([{"prompt_token_ids": ids}], SamplingParams(temperature=0, max_tokens=40))
    print(f"vLLM goes on: {written.outputs[0].text!r}")
    if not apart[worst] <= args.tolerance:
        sys.exit(f"error: more than --tolerance={args.tolerance:g} apart.")


if __name__ == "__main__":
    main()
