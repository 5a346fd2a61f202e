"""The model against transformers' DeepseekV3ForCausalLM, router biases non-zero, fp32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.model.reference import hf_name, hf_routings, hf_twin, random_model, tiny_config, token_ids

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
    "every_expert": {"num_experts_per_tok": 5, "n_routed_experts": 5},
    "low_theta": {"rope_theta": 10.0, "num_layers": 2},
}
SHAPES = {0: (2, 9), 1: (3, 13), 2: (1, 1)}


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Largest difference within ``tolerance`` of the largest value."""
    assert theirs.abs().max() > 0, what
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max(), what


@pytest.mark.parametrize("seed", SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_logits_experts_and_gradients_are_those_of_transformers(case: str, seed: int) -> None:
    """Catches any slip in MLA, RoPE layout, gating, expert order or a bias that leaks into the gate weights."""
    config = tiny_config(**CASES[case])
    model = random_model(config, seed)
    twin = hf_twin(model)
    ids = token_ids(config, *SHAPES[seed], seed=seed + 10)
    targets = token_ids(config, *SHAPES[seed], seed=seed + 20).flatten()

    found = hf_routings(twin)
    theirs = twin(input_ids=ids).logits
    out = model(ids)
    ours = model.logits(out.hidden)
    close(ours, theirs, "logits")

    assert len(found) == len(out.routings) == config.num_moe_layers
    for layer, ((scores, weights, experts), routing) in enumerate(zip(found, out.routings, strict=True)):
        close(routing.scores, scores, f"scores of layer {layer}")
        assert torch.equal(routing.experts.sort(dim=-1).values, experts.sort(dim=-1).values), f"layer {layer}"
        dense = torch.zeros_like(scores)
        close(
            dense.scatter(1, routing.experts, routing.weights),
            dense.scatter(1, experts, weights),
            f"gate weights of layer {layer}",
        )

    F.cross_entropy(ours.flatten(0, 1), targets).backward()
    F.cross_entropy(theirs.flatten(0, 1), targets).backward()
    expected = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        theirs_grad = expected.pop(hf_name(name)).grad
        assert parameter.grad is not None and theirs_grad is not None, name
        if SHAPES[seed][1] == 1 and theirs_grad.abs().max() < 1e-9:
            # A single token attends to itself alone: its query and key learn nothing.
            assert parameter.grad.abs().max() < 1e-7, name
        else:
            close(parameter.grad, theirs_grad, f"gradient of {name}", 2e-5)
    assert not expected


def test_the_biases_of_the_parity_cases_change_what_is_chosen() -> None:
    """A parity test with biases that change no choice would pass for a model that ignores them."""
    config = tiny_config()
    model = random_model(config, 0)
    biased = model(token_ids(config, 2, 9)).routings[0]
    unbiased = biased.scores.topk(config.num_experts_per_tok, dim=-1).indices
    assert not torch.equal(biased.experts.sort(dim=-1).values, unbiased.sort(dim=-1).values)


def test_a_sequence_is_not_affected_by_the_others_of_its_batch() -> None:
    """Catches a view that mixes batch and time, which equal shapes would hide."""
    config = tiny_config(q_lora_rank=24)
    model = random_model(config, 3)
    ids = token_ids(config, 4, 7)
    together = model.logits(model(ids).hidden)
    for row in range(4):
        close(model.logits(model(ids[row : row + 1]).hidden)[0], together[row], f"row {row}")
