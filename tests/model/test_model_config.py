"""ModelConfig: what is refused, and whether the message helps."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from s15erav3.model import ConfigError, ModelConfig
from s15erav3.model.rope import Yarn
from tests.model.reference import DENSE, tiny_config

YARN = {"factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": 36}, ["hidden_size=36", "multiple of 8"]),
        ({"intermediate_size": 44}, ["intermediate_size=44", "multiple of 8"]),
        ({"num_heads": 3}, ["hidden_size=32", "num_heads=3", "divisible"]),
        ({"qk_rope_head_dim": 7}, ["qk_rope_head_dim=7", "even"]),
        ({"num_experts_per_tok": 0}, ["num_experts_per_tok=0", "n_routed_experts=6"]),
        ({"num_experts_per_tok": 7}, ["num_experts_per_tok=7", "n_routed_experts=6", "exceeds"]),
        ({"first_k_dense_replace": 3}, ["first_k_dense_replace=3", "num_layers=3"]),
        ({"first_k_dense_replace": 9}, ["first_k_dense_replace=9", "num_layers=3"]),
        (
            {"num_experts_per_tok": 4},
            ["intermediate_size=48", "num_experts_per_tok", "n_shared_experts", "5", "moe_intermediate_size"],
        ),
        ({"num_experts_per_tok": 3}, ["moe_intermediate_size=12", "multiple of 8"]),
        ({"moe_intermediate_size": 20}, ["moe_intermediate_size=20", "multiple of 8"]),
        ({"n_routed_experts": 0}, ["n_routed_experts=0", "n_shared_experts=1", "num_experts_per_tok=2", "first_k"]),
        ({**DENSE, "n_shared_experts": 1}, ["n_routed_experts=0", "n_shared_experts=1"]),
        ({**DENSE, "first_k_dense_replace": 1}, ["n_routed_experts=0", "first_k_dense_replace=1"]),
        ({"vocab_size": 0}, ["vocab_size=0", "greater than 0"]),
        ({"kv_lora_rank": -3}, ["kv_lora_rank=-3", "greater than 0"]),
        ({"q_lora_rank": 0}, ["q_lora_rank=0", "greater than 0"]),
        ({"moe_intermediate_size": 0}, ["moe_intermediate_size=0", "greater than 0"]),
        ({"rms_norm_eps": -1e-6}, ["rms_norm_eps=-1e-06", "greater than 0"]),
        ({"routed_scaling_factor": 0.0}, ["routed_scaling_factor=0.0", "greater than 0"]),
        ({"num_layers": 2.0}, ["num_layers=2.0", "whole number"]),
        ({"num_layers": True}, ["num_layers=True", "whole number"]),
        ({"hidden_size": "32"}, ["hidden_size='32'", "whole number"]),
        ({"hidden_size": None}, ["hidden_size=None", "whole number"]),
        ({"rope_theta": "1e4"}, ["rope_theta='1e4'", "number"]),
        ({"rope_theta": None}, ["rope_theta=None", "number"]),
        ({"tie_word_embeddings": 1}, ["tie_word_embeddings=1", "true or false"]),
        ({"norm_topk_prob": "yes"}, ["norm_topk_prob='yes'", "true or false"]),
        ({"rope_theta": 1.0}, ["rope_theta=1", "10000"]),
        ({"attention_bias": 1}, ["attention_bias=1", "true or false"]),
        ({"n_group": 0}, ["n_group=0", "greater than 0"]),
        ({"n_group": 2.0}, ["n_group=2.0", "whole number"]),
        ({"topk_group": 0}, ["topk_group=0", "greater than 0"]),
        ({"n_group": 4}, ["n_routed_experts=6", "n_group=4", "equal groups"]),
        ({"n_group": 2, "topk_group": 3}, ["topk_group=3", "n_group=2", "exceeds"]),
        ({"n_group": 6, "topk_group": 6}, ["n_group=6", "single expert", "best two"]),
        (
            {"n_group": 3, "num_experts_per_tok": 3, "moe_intermediate_size": 8},
            ["topk_group=1", "groups of 2", "num_experts_per_tok=3", "raise topk_group"],
        ),
        ({"scoring_func": "relu"}, ["scoring_func=relu is for topk_method=threshold"]),
        ({"scoring_func": None}, ["scoring_func=None", "sigmoid, softmax, sqrtsoftplus, relu"]),
        ({"router_init": "zero"}, ["router_init=zero", "normal, orthogonal"]),
        ({"num_nextn_predict_layers": -1}, ["num_nextn_predict_layers=-1", "0 or more"]),
        ({"num_nextn_predict_layers": True}, ["num_nextn_predict_layers=True", "whole number"]),
        ({"rope_scaling": 4}, ["rope_scaling=4", "null or settings", "original_max_position_embeddings"]),
        ({"rope_scaling": {"factor": 4.0}}, ["rope_scaling lacks", "original_max_position_embeddings"]),
        ({"rope_scaling": {**YARN, "fctor": 4.0}}, ["'fctor' is not a setting of rope_scaling", "'factor'"]),
        ({"rope_scaling": {**YARN, "factor": 0.5}}, ["rope_scaling.factor=0.5", "1 or more"]),
        ({"rope_scaling": {**YARN, "factor": float("nan")}}, ["rope_scaling.factor=nan", "finite"]),
        ({"rope_scaling": {**YARN, "factor": "4"}}, ["rope_scaling.factor='4'", "number"]),
        (
            {"rope_scaling": YARN | {"original_max_position_embeddings": 16.0}},
            ["rope_scaling.original_max_position_embeddings=16.0", "whole number"],
        ),
        ({"rope_scaling": {**YARN, "mscale": 0.0}}, ["rope_scaling.mscale=0.0", "greater than 0"]),
        ({"rope_scaling": {**YARN, "mscale_all_dim": -1.0}}, ["rope_scaling.mscale_all_dim=-1.0", "0 or more"]),
        ({"rope_scaling": {**YARN, "beta_slow": 0}}, ["rope_scaling.beta_slow=0", "greater than 0"]),
        ({"rope_scaling": {**YARN, "beta_fast": 1.0}}, ["rope_scaling.beta_fast=1.0", "greater than beta_slow=1.0"]),
    ],
)
def test_what_cannot_be_built_is_refused_by_key_and_value(values: dict[str, Any], said: list[str]) -> None:
    """An assertion deep inside torch does not tell which setting to change."""
    with pytest.raises(ConfigError) as error:
        tiny_config(**values)
    for words in said:
        assert words in str(error.value)


@pytest.mark.parametrize(
    "key", ["n_routed_experts", "n_shared_experts", "num_experts_per_tok", "first_k_dense_replace"]
)
def test_a_negative_count_is_refused(key: str) -> None:
    """Catches counts whose sign is never looked at, as 0 is allowed for them."""
    with pytest.raises(ConfigError, match=f"{key}=-1"):
        tiny_config(**{key: -1})


def test_the_bound_in_the_message_of_a_negative_count_is_true() -> None:
    """A message that forbids 0 sends away from n_shared_experts=0, which is fine."""
    with pytest.raises(ConfigError) as error:
        tiny_config(n_shared_experts=-1)
    assert "greater than 0" not in str(error.value)


@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps", "initializer_range", "routed_scaling_factor"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(key: str, value: float) -> None:
    """YAML reads .nan and .inf; comparisons with nan are all false, so a bound check lets it through."""
    with pytest.raises(ConfigError, match=key):
        tiny_config(**{key: value})


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    """A misspelt setting that is ignored silently trains another model than the one asked for."""
    with pytest.raises(ConfigError, match=r"'n_routed_expert' .*did you mean 'n_routed_experts'\?"):
        tiny_config(n_routed_expert=8)
    with pytest.raises(ConfigError, match=r"'zzz' is not a setting of the model$"):
        tiny_config(zzz=8)


def test_missing_keys_are_all_named() -> None:
    """One error per missing key means one attempt per missing key."""
    values = tiny_config().to_dict()
    del values["vocab_size"], values["v_head_dim"]
    with pytest.raises(ConfigError, match="vocab_size, v_head_dim"):
        ModelConfig.from_dict(values)
    with pytest.raises(ConfigError):
        ModelConfig.from_dict({})


def test_plain_values_make_the_round_trip() -> None:
    """A checkpoint stores ``to_dict()`` as JSON: whatever it loses is lost on resuming."""
    for config in (
        tiny_config(),
        tiny_config(**DENSE),
        tiny_config(q_lora_rank=8, moe_intermediate_size=24),
        tiny_config(n_group=3, topk_group=2, scoring_func="softmax", attention_bias=True, num_nextn_predict_layers=2),
        tiny_config(rope_scaling={**YARN, "mscale": 0.7, "mscale_all_dim": 0.0}),
    ):
        assert ModelConfig.from_dict(config.to_dict()) == config
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert set(config.to_dict()) == {f.name for f in dataclasses.fields(ModelConfig)}
        # json.dumps lets subclasses through, which a checkpoint loaded with weights_only would refuse.
        plain = [*config.to_dict().values(), *(config.to_dict()["rope_scaling"] or {}).values()]
        assert {type(value) for value in plain} <= {int, float, bool, str, dict, type(None)}


def test_rope_scaling_is_taken_as_settings_or_ready_made() -> None:
    """YAML gives a mapping, Python may give the object; defaults are those of DeepSeek-V3."""
    made = tiny_config(rope_scaling=Yarn(**YARN))
    assert made == tiny_config(rope_scaling=YARN)
    assert made.rope_scaling == Yarn(**YARN, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)
    assert tiny_config().rope_scaling is None and tiny_config(rope_scaling=None).rope_scaling is None


def test_layers_that_route_go_on_counting_ahead() -> None:
    """Loads are stacked in this order; evaluation has the main model's alone."""
    config = tiny_config(num_nextn_predict_layers=2)
    assert (config.moe_layers, config.num_moe_layers) == ((1, 2, 3, 4), 2)
    assert tiny_config(**DENSE, num_nextn_predict_layers=2).moe_layers == ()
    assert tiny_config(first_k_dense_replace=0).moe_layers == (0, 1, 2)


def test_groups_as_many_as_allowed_are_accepted() -> None:
    """Catches bounds that are off by one."""
    assert tiny_config(n_group=3, topk_group=3).n_group == 3
    assert tiny_config(n_group=3, topk_group=1, num_experts_per_tok=2).topk_group == 1
    tiny_config(n_routed_experts=1, num_experts_per_tok=1, moe_intermediate_size=8)
    tiny_config(rope_scaling={**YARN, "factor": 1, "mscale_all_dim": 0})


def test_expert_width_defaults_to_the_dense_width_over_the_experts_of_a_token() -> None:
    """The rule behind comparisons at equal active parameters."""
    assert tiny_config(num_experts_per_tok=2, n_shared_experts=1).expert_size == 16
    assert tiny_config(num_experts_per_tok=2, n_shared_experts=0).expert_size == 24
    assert tiny_config(num_experts_per_tok=5, n_shared_experts=1).expert_size == 8
    assert tiny_config(num_experts_per_tok=4, moe_intermediate_size=8).expert_size == 8


@pytest.mark.parametrize("dense", [0, 1, 2])
def test_the_first_layers_are_dense(dense: int) -> None:
    """Catches an off-by-one between ``is_moe_layer`` and ``num_moe_layers``."""
    config = tiny_config(first_k_dense_replace=dense)
    assert [config.is_moe_layer(i) for i in range(3)] == [i >= dense for i in range(3)]
    assert config.num_moe_layers == 3 - dense


def test_a_dense_model_has_no_moe_layer() -> None:
    """Loads of shape (layers, 0) would crash the diagnostics."""
    config = tiny_config(**DENSE)
    assert config.num_moe_layers == 0 and not any(config.is_moe_layer(i) for i in range(3))


def test_a_config_cannot_be_changed_after_its_check() -> None:
    """A size changed after the check is a size nobody checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config().hidden_size = 33  # type: ignore[misc]
    with pytest.raises(TypeError):
        ModelConfig(61, 32, 3, 2, 20, 12, 8, 14, 48)  # type: ignore[misc]


def test_replacing_the_experts_of_a_config_derives_their_width_anew() -> None:
    """``replace(config, num_experts_per_tok=5)`` should cost per token what the original config costs."""
    few = tiny_config(num_experts_per_tok=2, n_shared_experts=1)
    assert dataclasses.replace(few, num_experts_per_tok=5).expert_size == 8
