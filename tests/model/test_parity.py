"""The model against transformers' DeepseekV3ForCausalLM: fp32 and fp64, forward, backward and one optimizer step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from s15erav3.model import ModelConfig, Transformer
from tests.model.reference import (
    DENSE,
    arithmetic,
    close,
    hf_name,
    hf_routings,
    hf_twin,
    random_model,
    small_configs,
    tiny_config,
    token_ids,
)

CASES = {
    "plain": {},
    "q_lora": {"q_lora_rank": 24},
    "all_moe": {"first_k_dense_replace": 0},
    "untied": {"tie_word_embeddings": False, "q_lora_rank": 24},
    "wide_values": {"v_head_dim": 30, "first_k_dense_replace": 0},
    "original_ratio": {"n_routed_experts": 7, "first_k_dense_replace": 0, "moe_intermediate_size": 40},
    "two_shared": {"n_shared_experts": 2, "num_experts_per_tok": 4, "n_routed_experts": 9},
    "not_normalised": {"norm_topk_prob": False, "routed_scaling_factor": 2.5, "q_lora_rank": 24},
    "scaled": {"routed_scaling_factor": 2.5, "num_heads": 4, "num_experts_per_tok": 3, "n_shared_experts": 3},
    "every_expert": {"num_experts_per_tok": 5, "n_routed_experts": 5, "moe_intermediate_size": 8},
    "low_theta": {"rope_theta": 10.0, "num_layers": 2},
    "groups": {"n_routed_experts": 12, "n_group": 4, "topk_group": 2, "rms_norm_eps": 1e-2, "q_lora_rank": 24},
    "yarn": {"rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 16}, "attention_bias": True},
    "dense": DENSE,
}
SHAPES = {0: (2, 9), 1: (3, 13), 2: (1, 1)}


def check_parity(config: ModelConfig, shape: tuple[int, int], seed: int, dtype: torch.dtype, bias: float) -> None:
    """All that one training step of both models makes, and what it is made from."""
    single = dtype == torch.float32
    model = random_model(config, seed, bias).to(dtype)
    twin = hf_twin(model)
    ids = token_ids(config, *shape, seed=seed + 1)
    targets = token_ids(config, *shape, seed=seed + 2).flatten()
    found = hf_routings(twin)
    with arithmetic(dtype):
        theirs = twin(input_ids=ids).logits
        F.cross_entropy(theirs.flatten(0, 1), targets).backward()
    out = model(ids)
    ours = model.logits(out.hidden)
    F.cross_entropy(ours.flatten(0, 1), targets).backward()

    tolerance = 1e-5 if single else 1e-10
    assert ours.dtype == theirs.dtype == dtype
    close(ours, theirs, "logits", tolerance)
    assert len(found) == len(out.routings) == config.num_moe_layers
    for layer, ((scores, weights, experts), routing) in enumerate(zip(found, out.routings, strict=True)):
        close(routing.scores, scores, f"scores of layer {layer}", tolerance)
        assert torch.equal(routing.experts.sort(dim=-1).values, experts.sort(dim=-1).values), f"layer {layer}"
        table = torch.zeros_like(scores)
        dealt = table.scatter(1, routing.experts, routing.weights)
        close(dealt, table.scatter(1, experts, weights), f"gate weights of layer {layer}", tolerance)
    _check_gradients(model, twin, single)
    _check_step(model, twin, single)


def _check_gradients(model: Transformer, twin: nn.Module, single: bool) -> None:
    """Every one, and no more of theirs."""
    # In fp32 a gradient is a sum over tokens of terms that partly cancel: errors of the terms stay, the sum shrinks.
    tolerance = 1e-4 if single else 1e-10
    # Some vanish: a token that sees itself alone moves no query, a normalised gate weight of one expert no router.
    # There, in fp32, both are rounding alone: a few times 6e-8 of terms of size one.
    floor = 5e-3 if single else 1e-4
    expected = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        ours, theirs = parameter.grad, expected.pop(hf_name(name)).grad
        assert ours is not None and theirs is not None, name
        close(ours, theirs, f"gradient of {name}", tolerance, floor)
    assert not expected


def _check_step(model: Transformer, twin: nn.Module, single: bool) -> None:
    """AdamW moves both alike."""
    rate = 1e-2
    for net in (model, twin):
        torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.1).step()
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        other = theirs[hf_name(name)]
        if single:
            # The first step is g / (|g| + eps), nearly the sign of g: where g is but rounding, so is the step.
            sure = other.grad.abs() > max(1e-2 * other.grad.abs().max().item(), 1e-5)
            assert (parameter - other).abs().max() <= 2.01 * rate, name
            if sure.any():
                close(parameter[sure], other[sure], f"{name} after a step", 1e-4)
        else:
            close(parameter, other, f"{name} after a step", 1e-10)


DRAWN = {
    "config": small_configs(),
    "shape": st.tuples(st.integers(1, 3), st.integers(2, 17)),
    "seed": st.integers(0, 10_000),
    "bias": st.sampled_from([0.3, 1.0]),
}


@settings(max_examples=60, derandomize=True)
@given(**DRAWN)
def test_any_config_is_transformers_to_ten_digits(
    config: ModelConfig, shape: tuple[int, int], seed: int, bias: float
) -> None:
    """Catches any slip in MLA, YaRN, groups, gating, norms, ties or biases, as all of it is but rounding away."""
    check_parity(config, shape, seed, torch.float64, bias)


@settings(max_examples=40, derandomize=True)
@given(**DRAWN)
def test_any_config_is_transformers_in_fp32(
    config: ModelConfig, shape: tuple[int, int], seed: int, bias: float
) -> None:
    """Catches what computes in too few digits: angles, norms or routers that are rounded to less than fp32."""
    check_parity(config, shape, seed, torch.float32, bias)


@pytest.mark.slow
@settings(max_examples=500, derandomize=True)
@given(**DRAWN)
def test_many_configs_are_transformers_to_ten_digits(
    config: ModelConfig, shape: tuple[int, int], seed: int, bias: float
) -> None:
    """The same with combinations of settings that few draws do not reach."""
    check_parity(config, shape, seed, torch.float64, bias)


@pytest.mark.parametrize("seed", SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_the_named_configs_are_transformers(case: str, seed: int) -> None:
    """Each setting alone: tells at once which one broke; sequences of one token are among them."""
    config = tiny_config(**CASES[case])
    check_parity(config, SHAPES[seed], seed, torch.float64 if seed else torch.float32, 0.3)


def test_the_biases_of_the_parity_cases_change_what_is_chosen() -> None:
    """A parity test with biases that change no choice would pass for a model that ignores them."""
    for bias in (0.3, 1.0):
        config = tiny_config()
        model = random_model(config, 0, bias)
        biased = model(token_ids(config, 2, 9)).routings[0]
        unbiased = biased.scores.topk(config.num_experts_per_tok, dim=-1).indices
        assert not torch.equal(biased.experts.sort(dim=-1).values, unbiased.sort(dim=-1).values)


def test_a_sequence_is_not_affected_by_the_others_of_its_batch() -> None:
    """Catches a view that mixes batch and time, which equal shapes would hide."""
    config = tiny_config(q_lora_rank=24)
    model = random_model(config, 3)
    ids = token_ids(config, 4, 7)
    together: Tensor = model.logits(model(ids).hidden)
    for row in range(4):
        close(model.logits(model(ids[row : row + 1]).hidden)[0], together[row], f"row {row}", 1e-5)
