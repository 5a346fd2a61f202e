"""Small models, and two references for them: transformers' DeepseekV3 and a loop over tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s15erav3.model import ModelConfig, Router, Transformer
from s15erav3.model.router import Routing


def tiny_config(**values: Any) -> ModelConfig:
    """A model of a few thousand parameters whose sizes all differ, so that no two can be confused."""
    return ModelConfig.from_dict(
        {
            "vocab_size": 61,
            "hidden_size": 32,
            "num_layers": 3,
            "num_heads": 2,
            "kv_lora_rank": 20,
            "qk_nope_head_dim": 12,
            "qk_rope_head_dim": 8,
            "v_head_dim": 14,
            "intermediate_size": 48,
            "q_lora_rank": None,
            "n_routed_experts": 6,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "max_position_embeddings": 64,
            "rope_theta": 1000.0,
            **values,
        }
    )


def random_model(config: ModelConfig, seed: int, bias: float = 0.3) -> Transformer:
    """A model in which no term vanishes: large matrices, norms around 1, router biases around 0."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
                parameter.copy_(noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
        for module in model.modules():
            if isinstance(module, Router):
                module.bias.copy_(bias * torch.randn(module.bias.shape, generator=generator))
    return model


def token_ids(config: ModelConfig, batch: int, length: int, seed: int = 0) -> Tensor:
    """Random ids, (batch, length)."""
    return torch.randint(0, config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


# --- transformers -----------------------------------------------------------------------------------------------


def hf_name(name: str) -> str:
    """The name in transformers' DeepseekV3ForCausalLM, in memory, of one of our parameters or buffers."""
    name = name.replace(".mlp.router.weight", ".mlp.gate.weight")
    name = name.replace(".mlp.router.bias", ".mlp.gate.e_score_correction_bias")
    return name if name.startswith("lm_head") else f"model.{name}"


def hf_twin(model: Transformer) -> nn.Module:
    """transformers' DeepseekV3ForCausalLM with the weights and biases of ``model``, eager throughout."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = model.config
    twin = DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            moe_intermediate_size=config.expert_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            n_shared_experts=config.n_shared_experts,
            n_routed_experts=config.n_routed_experts,
            num_experts_per_tok=config.num_experts_per_tok,
            n_group=1,
            topk_group=1,
            norm_topk_prob=config.norm_topk_prob,
            routed_scaling_factor=config.routed_scaling_factor,
            first_k_dense_replace=config.first_k_dense_replace,
            q_lora_rank=config.q_lora_rank,
            kv_lora_rank=config.kv_lora_rank,
            qk_nope_head_dim=config.qk_nope_head_dim,
            qk_rope_head_dim=config.qk_rope_head_dim,
            v_head_dim=config.v_head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            rope_interleave=True,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=config.tie_word_embeddings,
            num_nextn_predict_layers=0,
            use_cache=False,
            attn_implementation="eager",
            experts_implementation="eager",
        )
    )
    theirs = twin.state_dict()
    ours = {hf_name(name): value for name, value in model.state_dict().items()}
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.shape == theirs[name].shape, name
    twin.load_state_dict(ours)
    return twin


def hf_routings(twin: nn.Module) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A list that the next forward of ``twin`` fills: scores, weights and expert ids of each MoE layer."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for name, module in twin.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(lambda _m, _i, out: found.append((out[0].sigmoid(), out[1], out[2])))
    return found


# --- naive experts ----------------------------------------------------------------------------------------------


def random_routing(tokens: int, experts: int, k: int, seed: int, allowed: list[int] | None = None) -> Routing:
    """K distinct experts of ``allowed`` (all of them by default) per token, with random weights, in fp64."""
    generator = torch.Generator().manual_seed(seed)
    choices = torch.tensor(list(range(experts)) if allowed is None else allowed)
    chosen = torch.stack([choices[torch.randperm(len(choices), generator=generator)[:k]] for _ in range(tokens)])
    scores = torch.rand(tokens, experts, dtype=torch.float64, generator=generator)
    weights = torch.rand(tokens, k, dtype=torch.float64, generator=generator)
    return Routing(scores, chosen, weights, torch.bincount(chosen.flatten(), minlength=experts))


def naive_experts(x: Tensor, routing: Routing, gate_up: Tensor, down: Tensor) -> Tensor:
    """``sum_k weights[n, k] * expert_{experts[n, k]}(x[n])``, one token and one expert after the other."""
    rows = []
    for token, (ids, weights) in enumerate(zip(routing.experts.tolist(), routing.weights, strict=True)):
        total = torch.zeros_like(x[token])
        for expert, weight in zip(ids, weights, strict=True):
            width = gate_up.shape[1] // 2
            gate, up = gate_up[expert, :width] @ x[token], gate_up[expert, width:] @ x[token]
            total = total + weight * (down[expert] @ (F.silu(gate) * up))
        rows.append(total)
    return torch.stack(rows)
