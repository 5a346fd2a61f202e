"""Optimised decoding, one new token at a time: the same function with precomputed weight products.

Decoding a single token is bound by memory bandwidth and operator overhead, not by arithmetic. So the
up-projections of keys and values are absorbed into those of queries and outputs (DeepSeek-V2, arXiv 2405.04434,
section 2.1.2), weights of norms into the matrices that follow, projections of the same input are stacked, and rotation
becomes a product with rows that were permuted in advance.

Shapes: B sequences, T new tokens, D hidden, R rotary width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from s15erav3.model.folded import Angles, FoldedBlock
from s15erav3.model.kv_cache import Step
from s15erav3.model.matrix import matrix
from s15erav3.model.rope import rope_frequencies
from s15erav3.model.transformer import Transformer


class Decoder:
    """Decodes further tokens of sequences held in a :class:`~s15erav3.model.kv_cache.LatentCache`.

    It holds products of weights, not references: create a new one after further training.

    Args:
        model: already on its device.
        dtype: compute dtype; router scores are computed in at least fp32, as in the model.
        int8: keep all matrices but the embedding and the routers with 8 bits per weight, see
            :class:`~s15erav3.model.matrix.Int8`.

    Raises:
        ValueError: ``int8`` on a GPU.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype, *, int8: bool = False) -> None:
        if int8 and model.embed_tokens.weight.is_cuda:
            raise ValueError("weights of 8 bits are multiplied on a CPU only")
        config = model.config
        self.model, self.dtype = model, dtype
        yarn = config.rope_scaling
        device = model.embed_tokens.weight.device
        frequencies = rope_frequencies(config.qk_rope_head_dim, config.rope_theta, yarn, device)
        self.frequencies, self.magnitude = frequencies.repeat(2), 1.0 if yarn is None else yarn.magnitude
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            layers: Any = model.layers
            mtp: Any = model.mtp
            self.layers = [FoldedBlock(layer, dtype, int8) for layer in layers]
            self.ahead = [FoldedBlock(block.block, dtype, int8) for block in mtp]
            self.head = matrix(model.lm_head.weight, dtype, int8)

    def __call__(self, ids: Tensor, step: Step) -> Tensor:
        """Return the normalised final states (B, T, D) of further tokens (B, T)."""
        with torch.autocast(ids.device.type, enabled=False):
            x = self.model.embed_tokens(ids.flatten()).to(self.dtype)
            angles = self._angles(step)
            for i, layer in enumerate(self.layers):
                x = layer(x, angles, step.of_layer(i), ids)
            states: Tensor = self.model.norm(x)
            return states.view(*ids.shape, -1)

    def predict_ahead(self, k: int, hidden: Tensor, ids: Tensor, step: Step) -> Tensor:
        """Same as :meth:`Transformer.predict_ahead`, for tokens after the prefill."""
        block: Any = self.model.mtp[k - 1]
        with torch.autocast(ids.device.type, enabled=False):
            embedded = self.model.embed_tokens(ids).to(self.dtype)
            joined = torch.cat((block.enorm(embedded), block.hnorm(hidden.to(self.dtype))), dim=-1)
            x = F.linear(joined, block.eh_proj.weight.to(self.dtype)).flatten(0, 1)
            states: Tensor = block.norm(self.ahead[k - 1](x, self._angles(step), step.of_layer(0), ids))
            return states.view(*ids.shape, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        with torch.autocast(hidden.device.type, enabled=False):
            rows = hidden.to(self.dtype).reshape(-1, hidden.shape[-1])
            return self.head(rows).view(*hidden.shape[:-1], -1)

    def _angles(self, step: Step) -> Angles:
        """As :func:`~s15erav3.model.rope.rope_angles`, for (B or 1, T, 1, R)."""
        turns = step.positions.float().unsqueeze(-1) * self.frequencies
        turns = turns[None, :, None] if turns.ndim == 2 else turns.transpose(1, 2)
        cos, sin = turns.cos(), turns.sin()
        if self.magnitude != 1:
            cos, sin = cos * self.magnitude, sin * self.magnitude
        return cos.to(self.dtype), sin.to(self.dtype)
