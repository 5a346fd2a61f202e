"""The decoder: embeddings, blocks of latent attention and experts, a head; routings travel beside the states."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s15erav3.model.attention import LatentAttention
from s15erav3.model.config import ModelConfig
from s15erav3.model.experts import RoutedExperts, SwiGLU
from s15erav3.model.moe import MoE
from s15erav3.model.norm import RMSNorm
from s15erav3.model.rope import rope_angles
from s15erav3.model.router import Router, Routing


class Output(NamedTuple):
    """Final hidden states (B, T, D), normalised, and one routing per MoE layer in the order of ``routers()``."""

    hidden: Tensor
    routings: tuple[Routing, ...]


class Block(nn.Module):
    """Pre-norm residual block: attention, then a dense SwiGLU or a mixture of experts."""

    def __init__(self, config: ModelConfig, moe: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = LatentAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MoE(config) if moe else SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Routing | None]:
        """(B, T, D) -> (B, T, D) and the routing of an MoE layer."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        normed = self.post_attention_layernorm(x)
        if isinstance(self.mlp, MoE):
            out, routing = self.mlp(normed)
            return x + out, routing
        return x + self.mlp(normed), None


class Transformer(nn.Module):
    """A DeepSeek-V3 style language model.

    Initialisation: every matrix, embeddings and router included, is normal with standard deviation
    ``initializer_range``; norms are 1, biases of the routers 0. Parameters are made on the current
    default device, so a model of any size can be built on ``torch.device("meta")``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, config.is_moe_layer(i)) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
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
                    nn.init.normal_(module.weight, std=std)
            elif isinstance(module, RoutedExperts):
                nn.init.normal_(module.gate_up_proj, std=std)
                nn.init.normal_(module.down_proj, std=std)

    def forward(self, ids: Tensor) -> Output:
        """Read token ids (B, T), T at most ``max_position_embeddings``; see :class:`Output`."""
        cos, sin = rope_angles(
            torch.arange(ids.shape[1], device=ids.device),
            self.config.qk_rope_head_dim,
            self.config.rope_theta,
        )
        x = self.embed_tokens(ids)
        routings = []
        for layer in self.layers:
            x, routing = layer(x, cos, sin)
            if routing is not None:
                routings.append(routing)
        return Output(self.norm(x), tuple(routings))

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (..., D) -> (..., V)."""
        return F.linear(hidden, self.lm_head.weight)


def routers(model: nn.Module) -> list[Router]:
    """Every router inside ``model``, in the order in which forward returns their routings.

    Found through ``modules()``: a router added anywhere, in a multi-token-prediction block for one, is
    balanced like all others.
    """
    return [module for module in model.modules() if isinstance(module, Router)]
