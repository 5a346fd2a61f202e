"""ModelConfig to and from config.json: what is written, what is understood, what is refused and how."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s15erav3.errors import UserError
from s15erav3.interop.hf_config import from_hub, to_hub
from s15erav3.model import ModelConfig
from tests.model.reference import DENSE, small_configs, tiny_config

YARN = {"factor": 8.0, "original_max_position_embeddings": 16, "mscale": 0.7, "mscale_all_dim": 0.6}

WRITTEN = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "attention_bias": False,
    "moe_layer_freq": 1,
    "rope_interleave": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "n_shared_experts": 1,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 3,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "q_lora_rank": None,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000.0,
    "rope_scaling": {
        "type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 0.7,
        "mscale_all_dim": 0.6,
    },
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "use_cache": True,
}
DESCRIBED = tiny_config(
    n_group=3,
    topk_group=2,
    routed_scaling_factor=2.5,
    rope_scaling=YARN,
    num_nextn_predict_layers=1,
    moe_intermediate_size=16,
)


def written(**values: Any) -> dict[str, Any]:
    """As it would be read from a file."""
    return json.loads(json.dumps(to_hub(tiny_config(moe_intermediate_size=16)) | values))


def test_the_file_has_the_keys_that_deepseek_uses() -> None:
    """Written by hand: a wrong name in a table that serves both directions passes every round trip."""
    assert to_hub(DESCRIBED) == WRITTEN
    assert from_hub(WRITTEN, "config.json") == DESCRIBED


@settings(max_examples=100, derandomize=True)
@given(config=small_configs(), ahead=st.integers(0, 2), theirs=st.booleans())
def test_every_config_makes_the_round_trip(config: ModelConfig, ahead: int, theirs: bool) -> None:
    """Directly, and by way of what transformers makes of it and saves."""
    from transformers import DeepseekV3Config

    config = ModelConfig.from_dict(config.to_dict() | {"num_nextn_predict_layers": ahead})
    file = json.loads(json.dumps(to_hub(config)))
    if theirs:
        file = json.loads(DeepseekV3Config(**file).to_json_string())
        assert "rope_scaling" not in file and file["rope_parameters"]["rope_theta"] == config.rope_theta
    assert from_hub(file, "config.json") == config


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    """Its folder has rope_theta and rope_scaling joined, and keys that no one asked for."""
    from transformers import DeepseekV3Config

    DeepseekV3Config(**to_hub(DESCRIBED)).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["rope_parameters"]["rope_type"] == "yarn" and "rope_theta" not in saved
    assert from_hub(saved, "config.json") == DESCRIBED


def test_deepseeks_own_file_is_read() -> None:
    """config.json of deepseek-ai/DeepSeek-V3 as published, less the fp8 of its weights."""
    published = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        "aux_loss_alpha": 0.001,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "ep_size": 1,
        "first_k_dense_replace": 3,
        "hidden_act": "silu",
        "hidden_size": 7168,
        "initializer_range": 0.02,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "pretraining_tp": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "seq_aux": True,
        "tie_word_embeddings": False,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1",
        "use_cache": True,
        "v_head_dim": 128,
        "vocab_size": 129280,
    }
    config = from_hub(published, "config.json")
    assert (config.n_group, config.topk_group, config.rope_theta, config.num_nextn_predict_layers) == (8, 4, 10000, 1)
    assert config.rope_scaling is not None and config.rope_scaling.factor == 40
    assert (
        to_hub(config).items() >= {k: v for k, v in published.items() if k in WRITTEN and k != "rope_scaling"}.items()
    )


def test_a_dense_model_ends_before_the_first_layer_with_experts() -> None:
    """DeepseekV3 has no switch for it; 0 experts would divide by zero elsewhere."""
    config = tiny_config(**DENSE, num_nextn_predict_layers=2)
    file = to_hub(config)
    assert (file["first_k_dense_replace"], file["num_hidden_layers"]) == (5, 3)
    assert file["n_routed_experts"] == file["num_experts_per_tok"] == file["n_shared_experts"] == 1
    assert from_hub(file, "x") == config
    assert from_hub(file | {"n_routed_experts": 256, "n_group": 8, "topk_group": 4}, "x") == config
    assert to_hub(tiny_config(**DENSE, scoring_func="softmax"))["scoring_func"] == "sigmoid"  # nothing is scored


def test_whole_numbers_are_written_as_transformers_wants_them() -> None:
    """``experts.routed_scaling_factor=2`` on the command line is an int, and DeepseekV3Config refuses it."""
    from transformers import DeepseekV3Config

    config = tiny_config(routed_scaling_factor=2, rms_norm_eps=1, initializer_range=1, rope_theta=1000)
    assert DeepseekV3Config(**to_hub(config)).routed_scaling_factor == 2.0
    assert from_hub(to_hub(config), "x").routed_scaling_factor == 2


@pytest.mark.parametrize("scaling", [{"factor": 8.0}, {"factor": 8.0, "mscale": 1.0}])
def test_yarn_without_a_word_on_magnitudes_is_plain_yarn(scaling: dict[str, float]) -> None:
    """Our default of mscale_all_dim is DeepSeek-V3's value; where a file is silent its code and transformers take 0."""
    from transformers import DeepseekV3Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import yarn_apply_mscale

    file = written(rope_scaling={"type": "yarn", "original_max_position_embeddings": 16, **scaling})
    theirs = DeepseekV3Config(**file)
    yarn = from_hub(file, "x").rope_scaling
    assert yarn is not None
    assert yarn.magnitude == pytest.approx(ROPE_INIT_FUNCTIONS["yarn"](theirs)[1])
    assert yarn.softmax_factor == yarn_apply_mscale(theirs.rope_parameters, 1.0) == 1.0


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 500.0},
        {"rope_theta": 500.0, "rope_scaling": None},
        {"rope_theta": 500, "rope_parameters": None},
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
        {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 500.0}},
    ],
)
def test_positions_without_scaling_are_found_in_either_place(rotary: dict[str, Any]) -> None:
    """Catches a rope_theta that silently falls back to its default."""
    file = {k: v for k, v in written().items() if not k.startswith("rope_")} | rotary
    assert from_hub(file, "x") == tiny_config(moe_intermediate_size=16, rope_theta=500.0)


@pytest.mark.parametrize("kind", [{"type": "yarn"}, {"rope_type": "yarn"}, {"rope_type": "yarn", "type": "yarn"}])
@pytest.mark.parametrize("joined", [False, True])
def test_yarn_is_found_in_either_place(kind: dict[str, str], joined: bool) -> None:
    """Catches a scaling that is lost because its kind has two names, or its settings two places."""
    file = {k: v for k, v in written().items() if not k.startswith("rope_")}
    scaling = {**kind, **YARN}
    if joined:
        file["rope_parameters"] = scaling | {"rope_theta": 1000.0, "truncate": True}
    else:
        file |= {"rope_scaling": scaling, "rope_theta": 1000.0}
    assert from_hub(file, "x") == tiny_config(moe_intermediate_size=16, rope_scaling=YARN)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"model_type": "llama"},
            "x describes another architecture: model_type=llama, and only deepseek_v3 can be read",
        ),
        ({"quantization_config": {"bits": 8}}, "x has quantization_config={'bits': 8}, which this program does not"),
        ({"sliding_window": 4}, "x has sliding_window=4, which this program does not support; only plain DeepseekV3."),
        ({"num_hidden_layers": "3"}, "x has num_hidden_layers='3', which has the wrong type."),
        ({"first_k_dense_replace": None}, "x has first_k_dense_replace=None, which has the wrong type."),
        ({"rope_scaling": "yarn"}, "x has rope_scaling='yarn', which has the wrong type."),
        ({"rope_parameters": [1]}, "x has rope_parameters=[1], which has the wrong type."),
        ({"scoring_func": "softmax"}, "x has scoring_func=softmax, which is not supported: it must be sigmoid."),
        ({"topk_method": "greedy"}, "x has topk_method=greedy, which is not supported: it must be noaux_tc."),
        ({"hidden_act": "gelu"}, "x has hidden_act=gelu, which is not supported: it must be silu."),
        ({"rope_interleave": False}, "x has rope_interleave=False, which is not supported: it must be True."),
        ({"attention_dropout": 0.1}, "x has attention_dropout=0.1, which is not supported: it must be 0.0."),
        ({"moe_layer_freq": 2}, "x has moe_layer_freq=2, which is not supported: it must be 1."),
        (
            {"num_key_value_heads": 1},
            "x has num_key_value_heads=1, which is not supported: it must be num_attention_he",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "x has the rotary scaling 'linear', which is not suppor"),
        (
            {"rope_scaling": {"type": "yarn", **YARN, "attention_factor": 2.0}},
            "x has a rotary scaling with attention_f",
        ),
        ({"rope_scaling": {"type": "yarn", **YARN, "truncate": False}}, "x has a rotary scaling with "),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "x describes a model that this program cannot build: rope"),
        ({"hidden_size": 33}, "x describes a model that this program cannot build: hidden_size=33 must be a multiple"),
        ({"n_group": 4}, "x describes a model that this program cannot build: n_routed_experts=6 cannot be divided"),
        ({"vocab_size": "61"}, "x describes a model that this program cannot build: vocab_size='61' must be a whole n"),
    ],
)
def test_what_would_compute_something_else_is_refused(values: dict[str, Any], said: str) -> None:
    """Weights that load into the wrong arithmetic give fluent nonsense, or nearly right numbers."""
    with pytest.raises(UserError) as error:
        from_hub(written(**values), "x")
    assert str(error.value).startswith(said)
    assert str(error.value).endswith(".") and not str(error.value).endswith("..")


@pytest.mark.parametrize("key", sorted(WRITTEN.keys() - {"rope_theta", "rope_scaling"}))
def test_a_key_that_is_missing_is_no_silent_default(key: str) -> None:
    """Our defaults are not transformers': tied, ungrouped and unscaled is not what a file without those keys means."""
    file = {k: v for k, v in WRITTEN.items() if k != key}
    harmless = {"architectures", "use_cache", "attention_bias", "initializer_range", "num_key_value_heads"}
    harmless |= {"hidden_act", "attention_dropout", "moe_layer_freq", "rope_interleave", "scoring_func", "topk_method"}
    if key in harmless | {"moe_intermediate_size"}:  # absent, the last is what would be derived: 48 / (2 + 1)
        assert from_hub(file, "x").expert_size == 16
    elif key == "num_nextn_predict_layers":
        assert from_hub(file, "x").num_nextn_predict_layers == 0  # and its tensors would be refused as superfluous
    else:
        with pytest.raises(UserError, match=rf"^x (lacks {key}\.|describes another arch)"):
            from_hub(file, "x")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scoring_func": "softmax"}, "experts.scoring_func=softmax"),
        ({"n_routed_experts": 1, "num_experts_per_tok": 1}, "experts.n_routed_experts=1"),
        (
            {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.0}},
            "rope_scaling.mscale=0.7 and mscale_all_dim=0",
        ),
    ],
)
def test_a_model_that_transformers_has_not_is_not_exported(changed: dict[str, Any], said: str) -> None:
    """It would take the weights without a word, and compute something else."""
    with pytest.raises(UserError, match=re.escape(said) + r" cannot be exported: .*\.$"):
        to_hub(tiny_config(**changed))
