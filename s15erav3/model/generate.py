"""Continuing token sequences, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from s15erav3.model.transformer import Transformer


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: only the k likeliest tokens; 0 for all.
        top_p: the fewest tokens that hold this probability (nucleus, arXiv 1904.09751); 1 for all.
        repetition_penalty: divides positive and multiplies negative logits of tokens already seen
            (arXiv 1909.05858); 1 for none.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for good, said in (
            (self.temperature >= 0, f"temperature={self.temperature} must be 0 or more"),
            (
                isinstance(self.top_k, int) and self.top_k >= 0,
                f"top_k={self.top_k} must be a whole number, 0 (all tokens) or more",
            ),
            (0 < self.top_p <= 1, f"top_p={self.top_p} must be above 0 and at most 1"),
            (self.repetition_penalty > 0, f"repetition_penalty={self.repetition_penalty} must be above 0"),
        ):
            if not good:
                raise ValueError(said)

    def draw(self, logits: Tensor, seen: Tensor, generator: torch.Generator) -> int:
        """The next token.

        Args:
            logits: (V,).
            seen: ids of prompt and continuation so far, (T,).
            generator: source of randomness, on the CPU.
        """
        logits = logits.detach().to("cpu", torch.float32, copy=True)
        if self.repetition_penalty != 1:
            ids = torch.unique(seen.cpu())
            logits[ids] = torch.where(
                logits[ids] > 0, logits[ids] / self.repetition_penalty, logits[ids] * self.repetition_penalty
            )
        if self.temperature == 0:
            return int(logits.argmax())
        probabilities, ids = torch.softmax(logits / self.temperature, dim=-1).sort(descending=True, stable=True)
        if self.top_k:
            probabilities[self.top_k :] = 0
        # Keep a token while those before it hold less than top_p: the likeliest always stays.
        probabilities[probabilities.cumsum(0) - probabilities >= self.top_p] = 0
        return int(ids[torch.multinomial(probabilities, 1, generator=generator)])


@torch.no_grad()
def continue_sequence(
    model: Transformer,
    ids: list[int],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    context: int,
    stop: int | None = None,
) -> Iterator[int]:
    """Yield the tokens that follow ``ids``, up to ``max_new_tokens`` or the token ``stop``.

    The model reads the last ``context`` tokens anew for every token (there is no cache yet). It is put
    into evaluation mode meanwhile; nothing global is touched, so drawing samples between two training
    steps changes neither of them.

    Raises:
        ValueError: ``ids`` is empty.
    """
    if not ids:
        raise ValueError("a sequence needs at least one token to continue")
    generator = torch.Generator().manual_seed(seed)
    device = model.embed_tokens.weight.device
    sequence = torch.tensor(ids, device=device)
    training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            hidden = model(sequence[-context:].unsqueeze(0)).hidden[0, -1]
            token = sampling.draw(model.logits(hidden), sequence, generator)
            if token == stop:
                return
            yield token
            sequence = torch.cat((sequence, sequence.new_tensor([token])))
    finally:
        model.train(training)
