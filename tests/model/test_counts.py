"""Numbers of parameters against built models, for every pair of conf/model and conf/experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from s15erav3.model import ConfigError, ModelConfig, Transformer, count_parameters, training_flops_per_token
from s15erav3.model.experts import RoutedExperts
from tests.model.reference import tiny_config

CONF = Path(__file__).resolve().parents[2] / "conf"
SIZES = sorted(p.stem for p in (CONF / "model").glob("*.yaml"))
EXPERTS = sorted(p.stem for p in (CONF / "experts").glob("*.yaml"))
PAIRS = [(s, e) for s in SIZES for e in EXPERTS if e != "original" or s == "original"]
VOCABULARY = 2048  # that of the sample corpus


def composed(size: str, experts: str, **values: Any) -> ModelConfig:
    parts = OmegaConf.merge(
        OmegaConf.load(CONF / "model" / f"{size}.yaml"), OmegaConf.load(CONF / "experts" / f"{experts}.yaml")
    )
    plain = OmegaConf.to_container(parts, resolve=True)
    assert isinstance(plain, dict)
    return ModelConfig.from_dict({**plain, "vocab_size": VOCABULARY, **values})


def built(config: ModelConfig) -> tuple[int, int]:
    """Total and active parameters of the model itself; of a stack of E experts a token uses K."""
    with torch.device("meta"):
        model = Transformer(config)
    total = sum(p.numel() for p in model.parameters())
    stacks = [m for m in model.modules() if isinstance(m, RoutedExperts)]
    routed = sum(p.numel() for m in stacks for p in m.parameters())
    used = routed * config.num_experts_per_tok // max(1, config.n_routed_experts)
    return total, total - routed + used


def test_the_named_sizes_are_found() -> None:
    """An empty parametrization would test nothing."""
    assert {"nano", "small", "original"} <= set(SIZES)
    assert {"dense", "e8", "e16", "e32", "e64", "original"} <= set(EXPERTS)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("size", "experts"), PAIRS)
def test_counts_are_those_of_the_built_model(size: str, experts: str, tied: bool) -> None:
    """A wrong count makes every comparison at equal parameters wrong; also shows that each pair can be built."""
    config = composed(size, experts, tie_word_embeddings=tied)
    counts = count_parameters(config)
    assert (counts.total, counts.active) == built(config)
    assert counts.embedding == VOCABULARY * config.hidden_size


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    layers=st.integers(1, 4),
    dense_layers=st.integers(0, 3),
    heads=st.sampled_from([1, 2, 4]),
    q_lora=st.sampled_from([None, 5, 16]),
    kv_lora=st.integers(1, 20),
    dims=st.tuples(st.integers(1, 9), st.sampled_from([2, 4, 10]), st.integers(1, 9)),
    experts=st.integers(0, 9),
    shared=st.integers(0, 3),
    k=st.integers(1, 4),
    width=st.sampled_from([8, 24]),
    tied=st.booleans(),
)
def test_counts_hold_for_any_sizes(
    layers: int,
    dense_layers: int,
    heads: int,
    q_lora: int | None,
    kv_lora: int,
    dims: tuple[int, int, int],
    experts: int,
    shared: int,
    k: int,
    width: int,
    tied: bool,
) -> None:
    """Catches a term that the ready-made sizes hide because two of their dimensions are equal."""
    nope, rope, v = dims
    moe = {
        "n_routed_experts": experts,
        "n_shared_experts": shared,
        "num_experts_per_tok": k,
        "first_k_dense_replace": dense_layers,
        "moe_intermediate_size": width,
    }
    try:
        config = tiny_config(
            **(moe if experts else dict.fromkeys(moe, 0) | {"moe_intermediate_size": None}),
            num_layers=layers,
            num_heads=heads,
            q_lora_rank=q_lora,
            kv_lora_rank=kv_lora,
            qk_nope_head_dim=nope,
            qk_rope_head_dim=rope,
            v_head_dim=v,
            tie_word_embeddings=tied,
        )
    except ConfigError:
        assume(False)
        raise
    counts = count_parameters(config)
    assert (counts.total, counts.active) == built(config)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("experts", [e for e in EXPERTS if e not in ("dense", "original")])
def test_a_token_costs_the_same_with_any_experts(size: str, experts: str) -> None:
    """The dense control is one only at equal active parameters: to the last one, the routers themselves apart."""
    dense, sparse = composed(size, "dense"), composed(size, experts)
    routers = sparse.num_moe_layers * sparse.n_routed_experts * sparse.hidden_size
    active = count_parameters(sparse).active
    assert active - routers == count_parameters(dense).active
    assert count_parameters(sparse).total > 1.5 * count_parameters(dense).total
    assert routers < 0.03 * active  # what the comparison leaves out: 2.3 % for nano with e64, 0.3 % with e8


def test_a_model_with_every_expert_chosen_is_all_active() -> None:
    """Catches an active count that forgets the shared experts or counts them K times."""
    counts = count_parameters(tiny_config(n_routed_experts=2, num_experts_per_tok=2, n_shared_experts=1))
    assert counts.total == counts.active


def test_flops_of_a_model_counted_by_hand() -> None:
    """MFU is meaningless when the input table is counted as a product, or attention is not halved."""
    config = tiny_config(
        n_routed_experts=0, n_shared_experts=0, num_experts_per_tok=0, first_k_dense_replace=0, num_layers=1
    )
    # q 32 x 2(12 + 8), kv_a 32 x (20 + 8), kv_b 20 x 2(12 + 14), o 2 x 14 x 32, SwiGLU 3 x 32 x 48, head 61 x 32
    products = 32 * 40 + 32 * 28 + 20 * 52 + 28 * 32 + 3 * 32 * 48 + 61 * 32
    norms = 20 + 3 * 32
    scores = 2 * (20 + 14) * 100 / 2  # heads x (query width + value width) x half the sequence
    expected = 3 * (2 * (products + norms) + 2 * scores)
    assert training_flops_per_token(config, 100) == pytest.approx(expected, rel=1e-9)
    untied = tiny_config(**{**config.to_dict(), "tie_word_embeddings": False})
    assert training_flops_per_token(untied, 100) == pytest.approx(expected, rel=1e-9)


def test_flops_count_the_chosen_experts_only() -> None:
    """Catches MFU that grows with the number of experts."""
    few, many = composed("nano", "e8"), composed("nano", "e8", n_routed_experts=32)
    extra = 3 * 2 * few.num_moe_layers * 24 * few.hidden_size
    assert training_flops_per_token(many, 256) - training_flops_per_token(few, 256) == pytest.approx(extra)
