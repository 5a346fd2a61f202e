"""The decoder: embeddings, blocks of latent attention and experts, a head. Routings are returned with the states."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s15erav3.model.block import Block
from s15erav3.model.config import ModelConfig
from s15erav3.model.experts import RoutedExperts
from s15erav3.model.kv_cache import Step
from s15erav3.model.moe import MoE
from s15erav3.model.mtp import PredictionBlock
from s15erav3.model.norm import RMSNorm
from s15erav3.model.recompute import Recompute, Recomputing
from s15erav3.model.rope import rope_angles
from s15erav3.model.router import Router, Routing


class Output(NamedTuple):
    """Model output for token ids (B, T)."""

    hidden: Tensor
    """Final states, normalised, (B, T, D)."""
    routings: tuple[Routing, ...]
    """One per MoE layer that ran, in the order of ``routers()``."""
    ahead: tuple[Tensor, ...] = ()
    """States of the multi-token-prediction blocks: the k-th (from 1), (B, T - k, D), predicts k + 1 tokens ahead."""


class Transformer(nn.Module):
    """A DeepSeek-V3 style language model.

    Initialisation: every matrix, embeddings included, is normal with standard deviation ``initializer_range``, as a
    router is unless ``router_init`` makes it orthogonal; norms are 1, biases 0. Parameters are made on the current
    default device, so a model of any size can be built on ``torch.device("meta")``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, config.is_moe_layer(i)) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mtp = nn.ModuleList(
            PredictionBlock(config, config.num_layers + k) for k in range(config.num_nextn_predict_layers)
        )
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the initial weights from torch's global generator."""
        std = self.config.initializer_range
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | Router):
                if module is not self.lm_head or not self.config.tie_word_embeddings:
                    if isinstance(module, Router) and self.config.router_init == "orthogonal":
                        nn.init.orthogonal_(module.weight)
                        continue
                    nn.init.normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, RoutedExperts):
                nn.init.normal_(module.gate_up_proj, std=std)
                nn.init.normal_(module.down_proj, std=std)
        for router in routers(self):  # last, so that weights do not depend on the way of routing
            if router.table is not None:
                order = torch.rand(len(router.table), len(router.bias), device=router.table.device)
                router.table.copy_(order.argsort(dim=-1)[:, : router.top_k])

    def recompute(self, parts: Recompute) -> None:
        """Let parts of every layer run again in the backward pass: less memory, more time, the same numbers."""
        for module in self.modules():
            if isinstance(module, Recomputing):
                module.recompute = parts == "full" or (parts == "experts" and isinstance(module, MoE))

    def forward(self, ids: Tensor, step: Step | None = None, *, look_ahead: bool = False) -> Output:
        """Run the model on token ids.

        Args:
            ids: (B, T).
            step: continue from a KV cache; ``None`` starts at position 0, with T at most
                ``max_position_embeddings``.
            look_ahead: also run the multi-token-prediction blocks, for training.
        """
        cos, sin = self._angles(ids, step)
        x, named = self.embed_tokens(ids), self.named(ids)
        routings = []
        for i, layer in enumerate(self.layers):
            x, routing = layer(x, cos, sin, step and step.of_layer(i), named)
            if routing is not None:
                routings.append(routing)
        hidden, ahead = self.norm(x), []
        if look_ahead:
            state = hidden
            for k in range(1, len(self.mtp) + 1):
                state, routing = self.predict_ahead(k, state[:, : ids.shape[1] - k], ids[:, k:])
                ahead.append(state)
                if routing is not None:
                    routings.append(routing)
        return Output(hidden, tuple(routings), tuple(ahead))

    def predict_ahead(
        self, k: int, hidden: Tensor, ids: Tensor, step: Step | None = None
    ) -> tuple[Tensor, Routing | None]:
        """Run multi-token-prediction block ``k`` (from 1).

        Args:
            hidden: states of block k - 1 (of the main model for k = 1) at positions i, (B, T, D).
            ids: tokens at positions i + k, (B, T).
            step: step of this block's own KV cache.

        Returns:
            states that predict the tokens at i + k + 1, (B, T, D), and the routing of an MoE layer.
        """
        cos, sin = self._angles(ids, step)
        out: tuple[Tensor, Routing | None] = self.mtp[k - 1](
            self.embed_tokens(ids), hidden, cos, sin, step and step.of_layer(0), self.named(ids)
        )
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (..., D) -> (..., V)."""
        return F.linear(hidden, self.lm_head.weight)

    def named(self, ids: Tensor) -> Tensor | None:
        """Return ``ids`` if the routers choose by them: a block compiled for others then has no such input."""
        return ids if self.config.topk_method == "hash" else None

    def _angles(self, ids: Tensor, step: Step | None) -> tuple[Tensor, Tensor]:
        positions = torch.arange(ids.shape[1], device=ids.device) if step is None else step.positions
        config = self.config
        return rope_angles(positions, config.qk_rope_head_dim, config.rope_theta, config.rope_scaling)


def routers(model: nn.Module) -> list[Router]:
    """Return all routers in ``model``, in the order in which forward returns their routings.

    They are found through ``modules()``, so any added router is balanced too.
    """
    return [module for module in model.modules() if isinstance(module, Router)]
