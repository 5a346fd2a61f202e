"""Greedy speculative decoding with the model's multi-token-prediction blocks.

See DeepSeek-V3 (arXiv 2412.19437), section 5.4.3. A draft token is accepted if it is the model's own greedy choice
(arXiv 2211.17192).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.model.decode import Decoder
from s15erav3.model.generate import Emit, Generated, at_rest, compute_dtype
from s15erav3.model.kv_cache import LatentCache
from s15erav3.model.transformer import Transformer


class Drafter:
    """Drafts D tokens with the D prediction blocks, each with its own KV cache.

    Block k at position i reads the state of block k - 1 at i and token i + k. So its last k - 1 positions
    depend on draft tokens; with n known tokens, only positions up to n - 1 - k are final. The others are
    recomputed when more tokens are known.
    """

    def __init__(self, model: Transformer, decoder: Decoder, context: int, device: torch.device) -> None:
        self.model, self.decoder = model, decoder
        depth = model.config.num_nextn_predict_layers
        # Up to 2 D positions are read at once; they must not evict entries in the window of the first one.
        self.caches = [
            LatentCache(
                model.config, 1, context + 2 * depth, layers=1, window=context, device=device, dtype=decoder.dtype
            )
            for _ in range(depth)
        ]
        self.kept: list[Tensor | None] = [None] * depth
        """For each block, the final states of the previous block that it will read again."""

    def draft(self, tokens: Sequence[int], hidden: Tensor) -> list[int]:
        """Draft the next D tokens.

        Args:
            tokens: all n known tokens; the main model has not read the last one yet.
            hidden: the main model's states at the positions up to n - 2 not passed before, (1, m, D).
        """
        known, drafts = len(tokens), list[int]()
        fresh, fresh_next = hidden, known - 1  # and the first position to be passed next time
        for k, cache in enumerate(self.caches, start=1):
            start, kept = cache.length, self.kept[k - 1]
            states = fresh if kept is None else torch.cat((kept, fresh), dim=1)
            read = torch.tensor([[*tokens, *drafts][start + k :]], device=hidden.device)
            if start == 0:
                out, _ = self.model.predict_ahead(k, states, read, cache.advance(read.shape[1]))
            else:
                out = self.decoder.predict_ahead(k, states, read, cache.advance(read.shape[1]))
            drafts.append(int(self.decoder.logits(out[:, -1]).argmax()))
            settled = max(0, known - k)
            self.kept[k - 1] = states[:, settled - start : fresh_next - start]
            cache.length = settled
            fresh, fresh_next = out, settled
        return drafts


def generate_speculatively(
    model: Transformer,
    prompt: Sequence[int],
    emit: Emit,
    *,
    max_new_tokens: int,
    context: int,
    stop: int | None = None,
) -> Generated:
    """Continue one prompt greedily, like ``generate`` with temperature 0, verifying D + 1 tokens per step.

    Args:
        as in :func:`~s15erav3.model.generate.generate`.

    Raises:
        ValueError: the model has no prediction blocks, or the prompt is empty.
    """
    depth = model.config.num_nextn_predict_layers
    if not depth:
        raise ValueError("speculative decoding needs a model with multi-token-prediction blocks")
    if not prompt:
        raise ValueError("a sequence needs at least one token to continue")
    with at_rest(model) as device:
        tokens = list(prompt[-context:])
        decoder = Decoder(model, compute_dtype(model))
        room = context + depth
        cache = LatentCache(model.config, 1, room, window=context, device=device, dtype=decoder.dtype)
        drafter = Drafter(model, decoder, context, device)
        began = time.perf_counter()
        hidden = model(torch.tensor([tokens], device=device), cache.advance(len(tokens))).hidden
        read = time.perf_counter()
        drawn, steps, drafted, accepted = 0, 0, 0, 0
        new = [int(decoder.logits(hidden[:, -1]).argmax())]
        while True:
            for token in new:
                going = token != stop and drawn < max_new_tokens
                if going:
                    drawn += 1
                    going = emit(0, token) and drawn < max_new_tokens
                if not going:
                    seconds = time.perf_counter() - read
                    return Generated(drawn, steps, read - began, seconds, cache.bytes_per_token, drafted, accepted)
            tokens += new
            drafts = drafter.draft(tokens, hidden)
            out = decoder(torch.tensor([[tokens[-1], *drafts]], device=device), cache.advance(depth + 1))
            chosen = decoder.logits(out[0]).argmax(dim=-1).tolist()  # after each of the D + 1 tokens
            right = next((i for i, draft in enumerate(drafts) if chosen[i] != draft), depth)
            cache.length -= depth - right
            new, hidden = chosen[: right + 1], out[:, : right + 1]
            steps, drafted, accepted = steps + 1, drafted + depth, accepted + right
