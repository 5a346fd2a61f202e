"""The KV cache: one latent and one rotary key per token and layer.

Shapes: L layers, B sequences, S slots, T new tokens, C latent rank, R rotary width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from s15erav3.model.attention import LayerCache
from s15erav3.model.config import ModelConfig


class Step(NamedTuple):
    """Model input for T new tokens. Holds plain tensors only, which suits compiled models."""

    positions: Tensor
    """Rotary positions, (T,), or (B, 1, T) where sequences are padded."""
    entries: Tensor
    """(L, B, S, C + R)."""
    slots: Tensor
    """(T,)."""
    mask: Tensor | None
    prefill: bool

    def of_layer(self, layer: int) -> LayerCache:
        """Cache entries and mask of layer ``layer``."""
        return LayerCache(self.entries[layer], self.slots, self.mask, self.prefill)


class LatentCache:
    """Ring buffer of slots per layer: token p is in slot p mod S, so the newest S tokens are held.

    Keys are stored rotated, so the order of slots does not matter, and a sequence can be longer than S:
    attention then slides over its last ``window`` tokens. To discard the newest tokens, as after a rejected
    draft, lower ``length``: later entries are masked and will be overwritten. Once the ring is full, n tokens
    that are appended together or discarded evict n older ones: the window stays complete if S >= ``window`` + n.

    Args:
        config: gives C and R.
        batch: B, sequences in the batch.
        capacity: S.
        layers: L; by default the number of layers of the main model.
        padding: padding tokens at the left of each sequence, (B,); masked, and not counted in positions.
        window: tokens that one token attends to, itself included; at most and by default S.
        static: always expose all slots, so that shapes are constant and a compiled model is compiled once.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        capacity: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        layers: int | None = None,
        padding: Tensor | None = None,
        window: int | None = None,
        static: bool = False,
    ) -> None:
        width = config.kv_lora_rank + config.qk_rope_head_dim
        layers = config.num_layers if layers is None else layers
        self.entries = torch.zeros(layers, batch, capacity, width, device=device, dtype=dtype)
        self.holds = torch.full((capacity,), -1, device=device)  # index of the token in each slot
        self.padding = padding if padding is not None and bool(padding.any()) else None
        self.capacity, self.window, self.static = capacity, window or capacity, static
        self.length = self.newest = 0  # newest: over all tokens ever stored, discarded ones included

    @property
    def bytes_per_token(self) -> int:
        """Bytes per token of one sequence, over all layers."""
        return self.entries.shape[0] * self.entries.shape[3] * self.entries.element_size()

    def advance(self, count: int) -> Step:
        """Reserve slots for ``count`` more tokens.

        Raises:
            ValueError: ``count`` exceeds the number of slots.
        """
        if count > self.capacity:
            raise ValueError(f"{count} tokens at once do not fit into {self.capacity} slots")
        prefill = self.length == 0
        tokens = torch.arange(self.length, self.length + count, device=self.holds.device)
        slots = tokens % self.capacity
        self.holds[slots] = tokens
        self.length += count
        self.newest = max(self.newest, self.length)
        shown = self.capacity if self.static else min(self.length, self.capacity)
        positions = tokens
        if self.padding is not None:
            positions = (tokens - self.padding[:, None, None]).clamp(min=0)
        mask = self._mask(tokens, tokens if prefill else self.holds[:shown], prefill)
        return Step(positions, self.entries[:, :, :shown], slots, mask, prefill)

    def _mask(self, tokens: Tensor, seen: Tensor, prefill: bool) -> Tensor | None:
        """Attention mask of tokens (T,) over the tokens in the exposed slots, ``seen``: (B or 1, 1, T, S)."""
        forgotten = self.newest > max(self.length, self.capacity)  # discarded tokens may be in exposed slots
        all_seen = not self.static and not forgotten and self.window >= min(self.length, self.capacity)
        simple = prefill or (len(tokens) == 1 and all_seen)
        if self.padding is None and simple and (not prefill or len(tokens) <= self.window):
            return None
        distance = tokens[:, None] - seen  # (T, S)
        allowed = (distance >= 0) & (distance < self.window) & (seen >= 0)
        if self.padding is None:
            return allowed[None, None]
        real = seen >= self.padding[:, None, None, None]
        return (allowed & real) | (distance == 0)  # padding attends to itself: a fully masked row would be NaN

    def repeat(self, times: int) -> None:
        """Repeat each sequence ``times`` times: (B, ...) becomes (B * times, ...), copies adjacent."""
        if times == 1:
            return
        self.entries = self.entries.repeat_interleave(times, dim=1)
        if self.padding is not None:
            self.padding = self.padding.repeat_interleave(times)
