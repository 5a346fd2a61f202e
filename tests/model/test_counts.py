"""Numbers of parameters against built models, for every pair of conf/model and conf/experts, DeepSeek-V3 included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.interop import hf_config
from s15erav3.model import ConfigError, ModelConfig, Transformer, count_parameters, training_flops_per_token
from s15erav3.model.experts import RoutedExperts
from s15erav3.session.build import model_config
from tests.model.reference import DENSE, tiny_config

CONF = Path(__file__).resolve().parents[2] / "conf"
SIZES = sorted(p.stem for p in (CONF / "model").glob("*.yaml"))
EXPERTS = sorted(p.stem for p in (CONF / "experts").glob("*.yaml"))
PAIRS = [(s, e) for s in SIZES for e in EXPERTS if e not in ("original", "deepseek_v3") or s == e]
VOCABULARY = 2048  # that of the sample corpus


def composed(size: str, experts: str, **values: Any) -> ModelConfig:
    train, sized, chosen = (
        OmegaConf.load(CONF / f"{name}.yaml") for name in ("train", f"model/{size}", f"experts/{experts}")
    )
    parts = OmegaConf.merge(train.model, train.experts, sized, chosen)
    plain = OmegaConf.to_container(parts, resolve=True)
    assert isinstance(plain, dict)
    plain.pop("defaults", None)  # of Hydra: experts that a size brings along
    return ModelConfig.from_dict({**plain, "vocab_size": VOCABULARY, **values})


def built(config: ModelConfig) -> tuple[int, int, int]:
    """Total and active parameters and those ahead of the model itself; of a stack of E experts a token uses K."""
    with torch.device("meta"):
        model = Transformer(config)
    total, ahead = (sum(p.numel() for p in part.parameters()) for part in (model, model.mtp))
    stacks = [m for m in model.layers.modules() if isinstance(m, RoutedExperts)]
    routed = sum(p.numel() for m in stacks for p in m.parameters())
    used = routed * config.num_experts_per_tok // max(1, config.n_routed_experts)
    return total, total - ahead - routed + used, ahead


def test_the_named_sizes_are_found() -> None:
    """An empty parametrization would test nothing."""
    assert {"nano", "small", "medium", "original", "deepseek_v3"} <= set(SIZES)
    assert {"dense", "e8", "e16", "e32", "e64", "original", "deepseek_v3"} <= set(EXPERTS)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("size", "experts"), PAIRS)
def test_counts_are_those_of_the_built_model(size: str, experts: str, tied: bool) -> None:
    """A wrong count makes every comparison at equal parameters wrong; also shows that each pair can be built."""
    config = composed(size, experts, tie_word_embeddings=tied)
    counts = count_parameters(config)
    assert (counts.total, counts.active, counts.mtp) == built(config)
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
    bias=st.booleans(),
    ahead=st.integers(0, 3),
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
    bias: bool,
    ahead: int,
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
            attention_bias=bias,
            num_nextn_predict_layers=ahead,
        )
    except ConfigError:
        assume(False)
        raise
    counts = count_parameters(config)
    assert (counts.total, counts.active, counts.mtp) == built(config)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("experts", [e for e in EXPERTS if e not in ("dense", "original", "deepseek_v3")])
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
    config = tiny_config(**DENSE, num_layers=1)
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


def test_flops_of_a_block_ahead_counted_by_hand() -> None:
    """It multiplies by its own weights, of its experts by K, and by the head again, but looks no table up anew."""
    config = tiny_config(num_layers=2, tie_word_embeddings=False)
    ahead = tiny_config(num_layers=2, tie_word_embeddings=False, num_nextn_predict_layers=1)
    layer = 32 * 40 + 32 * 28 + 20 * 52 + 28 * 32 + 6 * 32 + 3 * 3 * 32 * 16  # attention, router, 1 + 2 of 6 experts
    norms = 20 + 2 * 32 + 3 * 32
    products = layer + 2 * 32 * 32 + 61 * 32
    extra = 3 * (2 * (products + norms) + 2 * 2 * (20 + 14) * 100 / 2)
    difference = training_flops_per_token(ahead, 100) - training_flops_per_token(config, 100)
    assert difference == pytest.approx(extra, rel=1e-9)


def deepseek_v3() -> ModelConfig:
    """As the program composes it."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return model_config(compose("train", ["model=deepseek_v3", "+run_dir_=x", "run_dir=x"]), 129_280)


def test_deepseek_v3_has_671_billion_parameters_of_which_37_are_active() -> None:
    """The numbers of arXiv 2412.19437, for the model alone: its one block ahead comes on top."""
    counts = count_parameters(deepseek_v3())
    assert round((counts.total - counts.mtp) / 1e9) == 671
    assert int(counts.active / 1e9) == 37
    biases = 58 * 256  # of its routers: buffers here, among the parameters where others count
    assert (counts.total - counts.mtp + biases, counts.active + biases) == (671_026_419_200, 37_552_297_472)
    assert counts.embedding == 129_280 * 7168
    assert (counts.total, counts.active, counts.mtp) == built(deepseek_v3())


def test_deepseek_v3_is_the_default_of_transformers() -> None:
    """Every dimension and switch, so that the choice is the model it is named after."""
    from transformers import DeepseekV3Config

    theirs = DeepseekV3Config().to_dict()
    ours = hf_config.to_hub(deepseek_v3())
    common = ours.keys() & theirs.keys()
    # The default of transformers is the model before its context was extended, with an initial spread of its own.
    differing = {"max_position_embeddings", "initializer_range", "architectures"}
    assert {key for key in common if ours[key] != theirs[key]} == differing
    # What lies on the hub beside that, and the one key that transformers calls otherwise in memory.
    only_ours = {"rope_theta", "rope_scaling", "moe_layer_freq", "scoring_func", "topk_method"}
    assert ours.keys() - common <= only_ours | {"num_nextn_predict_layers"}
    assert DeepseekV3Config().num_mtp_layers == ours["num_nextn_predict_layers"] == 1
    assert (ours["max_position_embeddings"], ours["initializer_range"]) == (163_840, 0.006)
    assert DeepseekV3Config().rope_parameters == {"rope_theta": ours["rope_theta"], "rope_type": "default"}
    assert {*common} >= {"hidden_size", "q_lora_rank", "n_group", "topk_group", "routed_scaling_factor", "v_head_dim"}
