"""Batched autoregressive generation, one token per sequence and step.

Shapes: B sequences, T tokens of the longest prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from s15erav3.model.decode import Decoder
from s15erav3.model.kv_cache import LatentCache
from s15erav3.model.sampling import Sampling
from s15erav3.model.transformer import Transformer

Emit = Callable[[int, int], bool]
"""Callback invoked with (sequence, token) as soon as it is drawn; returns whether the sequence continues."""


class Generated(NamedTuple):
    """Statistics of one generation."""

    tokens: int
    """Tokens drawn, over all sequences."""
    steps: int
    """Forward passes of the main model after the prefill."""
    prompt_seconds: float
    seconds: float
    """Seconds after the prefill."""
    cache_bytes_per_token: int
    drafted: int = 0
    """Tokens that multi-token-prediction blocks proposed."""
    accepted: int = 0
    """Proposed tokens that the main model accepted."""


@contextmanager
def at_rest(model: Transformer) -> Iterator[torch.device]:
    """Put the model in evaluation mode without gradients and restore its mode afterwards.

    No global state changes, so sampling between two training steps does not affect training.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield model.embed_tokens.weight.device
    finally:
        model.train(training)


def compute_dtype(model: Transformer) -> torch.dtype:
    """Autocast's dtype where autocast is enabled, else that of the weights."""
    weight = model.embed_tokens.weight
    autocast = torch.is_autocast_enabled(weight.device.type)
    return torch.get_autocast_dtype(weight.device.type) if autocast else weight.dtype


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    emit: Emit,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    context: int,
    stop: int | None = None,
    samples: int = 1,
    compiled: bool = False,
    int8: bool = False,
) -> Generated:
    """Continue every prompt ``samples`` times: sequence p * samples + s is sample s of prompt p.

    Prompts are prefilled once, as one batch with left padding. A sequence depends only on its prompt,
    ``seed`` and s (up to rounding), not on the rest of the batch.

    Args:
        emit: see :data:`Emit`; not called for ``stop`` itself.
        context: tokens that one token attends to; longer prompts are truncated to their last tokens.
        stop: token that ends a sequence.
        compiled: compile the decoding step; shapes and memory then stay the same from step to step.
        int8: decode with 8 bits per weight after the prompt, see :class:`~s15erav3.model.decode.Decoder`.

    Raises:
        ValueError: a prompt is empty, there are no prompts, the model uses expert choice, or ``int8`` is combined with
            a GPU or ``compiled``.
    """
    if not model.config.causal:
        raise ValueError("experts that choose among tokens to come cannot generate")
    if int8 and compiled:
        raise ValueError("experts with 8 bits per weight are not compiled")
    if not prompts or not all(prompts):
        raise ValueError("a sequence needs at least one token to continue")
    prompts = [prompt[-context:] for prompt in prompts]
    longest = max(map(len, prompts))
    with at_rest(model) as device:
        padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        ids = torch.tensor([[prompt[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        capacity = min(context, longest + max_new_tokens)
        dtype = compute_dtype(model)
        cache = LatentCache(
            model.config, len(prompts), capacity, device=device, dtype=dtype, padding=padding, static=compiled
        )
        began = time.perf_counter()
        hidden = model(ids, cache.advance(longest)).hidden[:, -1].repeat_interleave(samples, dim=0)
        cache.repeat(samples)
        generators = [torch.Generator().manual_seed(seed + s) for _ in prompts for s in range(samples)]
        seen = _seen(prompts, samples, model.config.vocab_size, device) if sampling.repetition_penalty != 1 else None
        going, drawn, steps = [max_new_tokens > 0] * len(generators), 0, 0
        decoder = Decoder(model, dtype, int8=int8)
        one_step = torch.compile(decoder.__call__, fullgraph=True, dynamic=False) if compiled else decoder
        read = time.perf_counter()
        while True:
            tokens = sampling.draw(decoder.logits(hidden), seen, generators)
            if seen is not None:
                seen.scatter_(1, tokens[:, None], True)
            for sequence, token in enumerate(tokens.tolist()):
                if going[sequence] and token != stop:
                    drawn += 1
                    going[sequence] = emit(sequence, token)
                else:
                    going[sequence] = False
            steps += 1
            if steps == max_new_tokens or not any(going):
                break
            hidden = one_step(tokens[:, None], cache.advance(1))[:, -1]
        return Generated(drawn, steps - 1, read - began, time.perf_counter() - read, cache.bytes_per_token)


def _seen(prompts: Sequence[Sequence[int]], samples: int, vocabulary: int, device: torch.device) -> Tensor:
    seen = torch.zeros(len(prompts), vocabulary, dtype=torch.bool, device=device)
    for row, prompt in zip(seen, prompts, strict=True):
        row[torch.tensor(prompt, device=device)] = True
    return seen.repeat_interleave(samples, dim=0)
