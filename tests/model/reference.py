"""Small models, and references for them: transformers' DeepseekV3, and loops written from the paper's equations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from s15erav3.interop import hf_config, hf_weights
from s15erav3.model import ModelConfig, Router, Transformer
from s15erav3.model.router import Routing

DENSE = {"n_routed_experts": 0, "n_shared_experts": 0, "num_experts_per_tok": 0, "first_k_dense_replace": 0}


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


@st.composite
def small_configs(draw: st.DrawFn, **fixed: Any) -> ModelConfig:
    """Everything that a DeepseekV3 may differ in, at small sizes; ``fixed`` settings are as given."""

    def one(*options: Any) -> Any:
        return draw(st.sampled_from(options))

    heads = one(1, 2, 4)
    layers = one(2, 3, 1)
    values: dict[str, Any] = {
        "vocab_size": one(29, 61),
        "hidden_size": one(32, 16, 40),
        "num_layers": layers,
        "num_heads": heads,
        "kv_lora_rank": one(20, 7, 12),
        "qk_nope_head_dim": one(12, 5, 3),
        "qk_rope_head_dim": one(8, 2, 6),
        "v_head_dim": one(14, 4, 9),
        "intermediate_size": one(48, 24),
        "q_lora_rank": one(None, 24, 11),
        "rope_theta": one(1000.0, 10.0, 5e5),
        "attention_bias": draw(st.booleans()),
        "rms_norm_eps": one(1e-2, 1e-3, 1e-5),
        "tie_word_embeddings": draw(st.booleans()),
        "max_position_embeddings": 64,
        "rope_scaling": None,
    }
    if draw(st.booleans()):
        mscale, all_dim = one((1.0, 1.0), (0.707, 0.707), (1.0, 0.5), (0.8, 1.3), (1.0, 0.0))
        values["rope_scaling"] = {
            "factor": one(1.0, 2.5, 8.0, 40.0),
            "original_max_position_embeddings": one(4, 16, 256),
            "beta_fast": one(32.0, 4.0),
            "mscale": mscale,
            "mscale_all_dim": all_dim,
        }
    if one("moe", "moe", "moe", "moe", "dense") == "dense":
        values |= DENSE
    else:
        groups, size = one((1, 6), (1, 7), (2, 2), (2, 4), (3, 2), (3, 3), (4, 2), (4, 3))
        chosen = draw(st.integers(1, groups))
        values |= {
            "n_routed_experts": groups * size,
            "n_group": groups,
            "topk_group": chosen,
            "num_experts_per_tok": draw(st.integers(1, min(4, chosen * size))),
            "n_shared_experts": one(1, 2, 3),
            "moe_intermediate_size": one(8, 16),
            "first_k_dense_replace": draw(st.integers(0, min(2, layers - 1))),
            "norm_topk_prob": draw(st.booleans()),
            "routed_scaling_factor": one(1.0, 2.5, 0.3),
        }
    return ModelConfig.from_dict(values | fixed)


def random_model(config: ModelConfig, seed: int, bias: float = 0.3) -> Transformer:
    """A model in which no term vanishes: large matrices, norms around 1, biases of projections and routers around 0."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith(".bias"):
                parameter.copy_(0.5 * noise)
            elif parameter.ndim == 1:
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


def close(ours: Tensor, theirs: Tensor, what: str, tolerance: float, floor: float = 0.0) -> None:
    """Largest difference within ``tolerance`` of the largest value, or of ``floor`` where that is greater."""
    assert ours.shape == theirs.shape, what
    assert theirs.abs().max() > 0 or floor, f"{what} vanishes"
    difference, scale = (ours - theirs).abs().max().item(), max(theirs.abs().max().item(), floor)
    assert difference <= tolerance * scale, f"{what}: {difference:.2e} of {scale:.2e}"


# --- transformers -----------------------------------------------------------------------------------------------


class _Wide:
    """torch, but what asks for fp32 gets fp64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def arithmetic(dtype: torch.dtype) -> Iterator[None]:
    """In fp64 also transformers' norms, softmax and routers, which fix fp32, compute in fp64; angles stay fp32."""
    from transformers.models.deepseek_v3 import modeling_deepseek_v3

    if dtype == torch.float64:
        modeling_deepseek_v3.torch = _Wide()
    try:
        yield
    finally:
        modeling_deepseek_v3.torch = torch


def stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The hub's tensors as transformers holds them in memory: the experts of a layer in two."""
    found = {key: value for key, value in tensors.items() if ".experts." not in key}
    for stem in {key.partition(".experts.")[0] + ".experts" for key in tensors.keys() - found.keys()}:
        count = sum(bool(re.match(re.escape(stem) + r"\.\d+\.down_proj", key)) for key in tensors)
        each = [[tensors[f"{stem}.{i}.{part}_proj.weight"] for i in range(count)] for part in ("gate", "up", "down")]
        gate, up, down = map(torch.stack, each)
        found |= {f"{stem}.gate_up_proj": torch.cat((gate, up), dim=1), f"{stem}.down_proj": down}
    return found


def hf_name(name: str) -> str:
    """The name in transformers' DeepseekV3ForCausalLM, in memory, of one of our parameters or buffers."""
    name = name.replace(".mlp.router.weight", ".mlp.gate.weight")
    name = name.replace(".mlp.router.bias", ".mlp.gate.e_score_correction_bias")
    return name if name.startswith("lm_head") else f"model.{name}"


def hf_twin(model: Transformer) -> nn.Module:
    """transformers' DeepseekV3ForCausalLM, eager, made of what ``model`` exports, in its dtype."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    config = DeepseekV3Config(**hf_config.to_hub(model.config) | {"use_cache": False}, **eager)
    twin = DeepseekV3ForCausalLM(config).to(model.embed_tokens.weight.dtype)
    _load(twin, model)
    return twin


def _load(twin: nn.Module, model: Transformer) -> None:
    ahead = tuple(f"model.layers.{model.config.num_layers + k}." for k in range(len(model.mtp)))
    tensors = {key: value for key, value in hf_weights.to_hub(model).items() if not key.startswith(ahead)}
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    twin.load_state_dict(stacked(tensors))
    for name, value in model.state_dict().items():  # by hand: a name that both ways get wrong is found here
        if not name.startswith("mtp."):
            assert torch.equal(twin.state_dict()[hf_name(name)], value), name


def hf_mtp_name(name: str) -> str:
    """The name in transformers' MtpModel of one of our ``mtp`` parameters or buffers."""
    depth, rest = name.removeprefix("mtp.").split(".", maxsplit=1)
    rest = "post_norm.weight" if rest == "norm.weight" else rest
    rest = rest.replace("block.", "mtp_block.").replace(".router.weight", ".gate.weight")
    return f"layers.{depth}." + rest.replace(".router.bias", ".gate.e_score_correction_bias")


def hf_mtp(model: Transformer, twin: nn.Module) -> nn.Module:
    """transformers' MtpModel with the weights of ``model``, on its twin's embedding and head."""
    from transformers.modeling_layers import MtpModel

    mtp = MtpModel(twin, len(model.mtp)).to(model.embed_tokens.weight.dtype)
    _load(twin, model)  # anew, as making MtpModel may have drawn the shared tensors again
    theirs = mtp.state_dict()
    ours = {hf_mtp_name(name): value for name, value in model.state_dict().items() if name.startswith("mtp.")}
    assert ours.keys() == {key for key in theirs if key.startswith("layers.")}
    mtp.load_state_dict(theirs | ours)
    return mtp


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
    load = torch.bincount(chosen.flatten(), minlength=experts)
    return Routing(scores, chosen, weights, load, scores.logit(), torch.zeros(experts))


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
