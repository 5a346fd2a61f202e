"""The KV cache: one latent and one rotary key per token and layer, nothing else.

Shapes: L layers, B sequences, S slots, T new tokens, C latent rank, R rotary width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from s15erav3.model.attention import LayerCache
from s15erav3.model.config import ModelConfig


class Step(NamedTuple):
    """T new tokens as the model reads them: plain tensors, so that a compiled model sees nothing else."""

    positions: Tensor
    """For the rotation, (T,), or (B, 1, T) where sequences are padded."""
    entries: Tensor
    """(L, B, S, C + R)."""
    slots: Tensor
    """(T,)."""
    mask: Tensor | None
    prefill: bool

    def of_layer(self, layer: int) -> LayerCache:
        """The part of layer ``layer``."""
        return LayerCache(self.entries[layer], self.slots, self.mask, self.prefill)


class LatentCache:
    """A ring of slots per layer: token p lies in slot p mod S, so it holds the newest S tokens.

    Keys carry their rotation, so the order of slots does not matter, and a sequence may be longer than S:
    attention then slides over its last ``window`` tokens. To forget the newest tokens, as after a wrong
    draft, lower ``length``: what lies behind it is masked and will be overwritten. Once the ring is full, n
    tokens that are fed together or forgotten have cost n older ones: all are still there if S >= ``window`` + n.

    Args:
        config: gives C and R.
        batch: sequences that are continued together.
        capacity: S.
        layers: L; by default those of the main model.
        padding: meaningless tokens at the left of each sequence, (B,); never looked at, not counted in positions.
        window: tokens that one token sees, itself included; at most and by default S.
        static: always show all slots, so that shapes never change and a compiled model is compiled once.
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
        self.holds = torch.full((capacity,), -1, device=device)  # which token lies in each slot
        self.padding = padding if padding is not None and bool(padding.any()) else None
        self.capacity, self.window, self.static = capacity, window or capacity, static
        self.length = self.newest = 0  # newest: of all tokens that were ever held, forgotten ones included

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token of one sequence, over all layers."""
        return self.entries.shape[0] * self.entries.shape[3] * self.entries.element_size()

    def advance(self, count: int) -> Step:
        """Make room for ``count`` more tokens.

        Raises:
            ValueError: more of them than slots.
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
        """Where tokens (T,) may look among those that lie in the slots shown, ``seen``: (B or 1, 1, T, S)."""
        forgotten = self.newest > max(self.length, self.capacity)  # may lie in slots that are shown
        all_seen = not self.static and not forgotten and self.window >= min(self.length, self.capacity)
        simple = prefill or (len(tokens) == 1 and all_seen)
        if self.padding is None and simple and (not prefill or len(tokens) <= self.window):
            return None
        distance = tokens[:, None] - seen  # (T, S)
        allowed = (distance >= 0) & (distance < self.window) & (seen >= 0)
        if self.padding is None:
            return allowed[None, None]
        real = seen >= self.padding[:, None, None, None]
        return (allowed & real) | (distance == 0)  # padding sees itself: a row without any would be NaN

    def repeat(self, times: int) -> None:
        """Continue each sequence ``times`` times: (B, ...) becomes (B * times, ...), copies side by side."""
        if times == 1:
            return
        self.entries = self.entries.repeat_interleave(times, dim=1)
        if self.padding is not None:
            self.padding = self.padding.repeat_interleave(times)
