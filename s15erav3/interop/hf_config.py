"""Conversion between :class:`ModelConfig` and the ``config.json`` of a Hugging Face DeepseekV3."""

from __future__ import annotations

from typing import Any

from s15erav3.errors import UserError
from s15erav3.model import ConfigError, ModelConfig

Json = dict[str, Any]

SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "n_shared_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "n_group",
    "topk_group",
    "norm_topk_prob",
    "routed_scaling_factor",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "max_position_embeddings",
    "attention_bias",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
    "num_nextn_predict_layers",
)
"""Keys with the same name and meaning on both sides."""

FLOATS = ("routed_scaling_factor", "rms_norm_eps", "initializer_range")
"""Keys among these that must be floats: transformers rejects 1 in place of 1.0."""

OPTIONAL = {"attention_bias", "initializer_range", "num_nextn_predict_layers"}
"""Keys among these that a file may omit. For the others, defaults of transformers differ from ours."""

FIXED: Json = {
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "moe_layer_freq": 1,
    "rope_interleave": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
"""Values fixed in our model; the last two are read by vLLM and SGLang, not by transformers."""

YARN = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")

IGNORED = {
    *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "use_cache", "pretraining_tp"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "ep_size", "aux_loss_alpha", "seq_aux", "head_dim"),
    *("qk_head_dim", "output_router_logits", "trained_sequence_length", "_name_or_path", "return_dict"),
}
"""Keys that do not affect what the model computes."""


def to_hub(config: ModelConfig) -> Json:
    """Convert a model config to the model's part of ``config.json``.

    Raises:
        UserError: no DeepseekV3 computes the same.
    """
    if not config.causal:
        raise UserError(
            "a model with experts.topk_method=expert_choice cannot be exported: DeepseekV3 has no such routing, and it "
            "cannot generate, as experts choose among future tokens."
        )
    if config.topk_method != "noaux_tc":
        raise UserError(
            f"a model with experts.topk_method={config.topk_method} cannot be exported: DeepseekV3 in transformers "
            "chooses the top K experts by score, and would compute something else."
        )
    if config.chooses_by_score and not config.adds_bias:
        raise UserError(
            f"a model with experts.bias_form={config.bias_form} cannot be exported: DeepseekV3 in transformers adds "
            "the bias to the affinity, and would compute something else."
        )
    if config.n_routed_experts and config.scoring_func != "sigmoid":
        raise UserError(
            f"a model with experts.scoring_func={config.scoring_func} cannot be exported: DeepseekV3 in transformers "
            "knows only sigmoid, and would compute something else."
        )
    if config.n_routed_experts == 1:
        raise UserError(
            "a model with experts.n_routed_experts=1 cannot be exported: DeepseekV3 in transformers compares two "
            "experts of each group."
        )
    scaling = config.rope_scaling
    if scaling is not None and scaling.mscale_all_dim == 0 and scaling.mscale != 1:
        raise UserError(
            f"a model with rope_scaling.mscale={scaling.mscale} and mscale_all_dim=0 cannot be exported: DeepseekV3 in "
            "transformers would use mscale=1, and compute something else."
        )
    values = {key: getattr(config, key) for key in SAME}
    values |= {key: float(values[key]) for key in FLOATS}
    if not config.n_routed_experts:  # a dense model: all layers precede the first MoE layer
        values |= {
            "first_k_dense_replace": config.num_layers + config.num_nextn_predict_layers,
            "n_routed_experts": 1,
            "num_experts_per_tok": 1,
            "n_shared_experts": 1,
        }
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        **FIXED,
        **values,
        "moe_intermediate_size": config.expert_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling and {"type": "yarn", **{key: getattr(scaling, key) for key in YARN}},
        "use_cache": True,
    }


def from_hub(values: Json, where: str) -> ModelConfig:
    """Convert a ``config.json`` to a model config.

    Args:
        where: name of the file in messages.

    Raises:
        UserError: the architecture differs, a key is missing, or a feature is not supported.
    """
    if values.get("model_type") != "deepseek_v3":
        raise UserError(
            f"{where} describes another architecture: model_type={values.get('model_type')}, and only deepseek_v3 can "
            "be read; give a folder of a DeepseekV3."
        )
    known = {*SAME, *FIXED, *IGNORED, "moe_intermediate_size", "num_hidden_layers", "num_attention_heads"}
    known |= {"num_key_value_heads", "rope_theta", "rope_scaling", "rope_parameters"}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where} has {key}={value}, which this program does not support; only plain DeepseekV3.")
        if key in FIXED and value != FIXED[key]:
            raise UserError(f"{where} has {key}={value}, which is not supported: it must be {FIXED[key]}.")
    for key in (*SAME, "num_hidden_layers", "num_attention_heads"):
        if key not in values and key not in OPTIONAL:
            raise UserError(f"{where} lacks {key}.")
    for key, kind in (
        *((name, int) for name in ("num_hidden_layers", "num_attention_heads", "first_k_dense_replace")),
        *((name, dict | None) for name in ("rope_scaling", "rope_parameters")),
    ):
        if not isinstance(values.get(key), kind) and (key in values or kind is int):
            raise UserError(f"{where} has {key}={values[key]!r}, which has the wrong type.")
    settings = {key: values[key] for key in SAME if key in values}
    settings |= {"num_layers": values["num_hidden_layers"], "num_heads": values["num_attention_heads"]}
    if values.get("num_key_value_heads", settings["num_heads"]) != settings["num_heads"]:
        raise UserError(
            f"{where} has num_key_value_heads={values['num_key_value_heads']}, which is not supported: it must be "
            f"num_attention_heads={settings['num_heads']}."
        )
    settings["moe_intermediate_size"] = values.get("moe_intermediate_size")
    if settings.get("first_k_dense_replace", 0) >= settings["num_layers"]:
        none = ("n_routed_experts", "num_experts_per_tok", "n_shared_experts", "first_k_dense_replace")
        settings |= dict.fromkeys(none, 0) | {"moe_intermediate_size": None, "n_group": 1, "topk_group": 1}
    settings |= _rotary(values, where)
    try:
        return ModelConfig.from_dict(settings)
    except ConfigError as error:
        raise UserError(f"{where} describes a model that this program cannot build: {error}.") from error


def _rotary(values: Json, where: str) -> Json:
    """Read ``rope_theta`` and ``rope_scaling`` from either layout: as on the hub, or joined as in transformers 5."""
    joined = values.get("rope_parameters") or {}
    scaling = {**(values.get("rope_scaling") or {}), **joined}
    theta = scaling.pop("rope_theta", values.get("rope_theta", 10000.0))
    kind = scaling.pop("rope_type", scaling.get("type", "default"))
    scaling.pop("type", None)
    if kind not in ("default", "yarn"):
        raise UserError(f"{where} has the rotary scaling '{kind}', which is not supported; only yarn, or none.")
    if scaling.pop("truncate", True) is not True or set(scaling) - set(YARN):
        raise UserError(
            f"{where} has a rotary scaling with {', '.join(sorted(scaling))}: only {', '.join(YARN)} are known."
        )
    # If the key is missing, DeepSeek's code and transformers do not scale the softmax; our default is DeepSeek-V3's.
    return {"rope_theta": theta, "rope_scaling": {"mscale_all_dim": 0.0, **scaling} if kind == "yarn" else None}
