"""Our tensors to and from DeepSeek's names, by hand, round and through transformers' own loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from s15erav3.errors import UserError
from s15erav3.interop import hf_config
from s15erav3.interop.hf_weights import from_hub, shared_copies, to_hub
from s15erav3.model import ModelConfig, Router, Transformer, routers
from tests.model.reference import DENSE, close, hf_mtp, hf_twin, random_model, small_configs, tiny_config, token_ids

ATTENTION = [
    "self_attn.q_a_proj.weight",
    "self_attn.q_a_proj.bias",
    "self_attn.q_a_layernorm.weight",
    "self_attn.q_b_proj.weight",
    "self_attn.kv_a_proj_with_mqa.weight",
    "self_attn.kv_a_proj_with_mqa.bias",
    "self_attn.kv_a_layernorm.weight",
    "self_attn.kv_b_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.o_proj.bias",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
]
DENSE_MLP = ["mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"]
MOE = [
    "mlp.gate.weight",
    "mlp.gate.e_score_correction_bias",
    "mlp.shared_experts.gate_proj.weight",
    "mlp.shared_experts.up_proj.weight",
    "mlp.shared_experts.down_proj.weight",
    "mlp.experts.0.gate_proj.weight",
    "mlp.experts.0.up_proj.weight",
    "mlp.experts.0.down_proj.weight",
    "mlp.experts.1.gate_proj.weight",
    "mlp.experts.1.up_proj.weight",
    "mlp.experts.1.down_proj.weight",
]
EXPERT = "model.layers.1.mlp.experts.1."
AHEAD = [
    "enorm.weight",
    "hnorm.weight",
    "eh_proj.weight",
    "shared_head.norm.weight",
    "embed_tokens.weight",
    "shared_head.head.weight",
]


def full_config(**values: Any) -> ModelConfig:
    """Every kind of tensor, and two experts."""
    return tiny_config(
        num_layers=2, n_routed_experts=2, q_lora_rank=24, attention_bias=True, num_nextn_predict_layers=1, **values
    )


def same(ours: Transformer, other: Transformer) -> None:
    """All tensors equal, to the bit."""
    theirs = other.state_dict()
    for name, value in ours.state_dict().items():
        assert value.dtype == theirs[name].dtype and torch.equal(value, theirs[name]), name


def test_the_names_are_those_of_deepseek() -> None:
    """Written by hand from the index of deepseek-ai/DeepSeek-V3: what both directions get wrong is found here."""
    expected = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    expected |= {f"model.layers.0.{name}" for name in ATTENTION + DENSE_MLP}
    expected |= {f"model.layers.1.{name}" for name in ATTENTION + MOE}
    expected |= {f"model.layers.2.{name}" for name in ATTENTION + MOE + AHEAD}
    assert to_hub(Transformer(full_config(tie_word_embeddings=False))).keys() == expected
    assert to_hub(Transformer(full_config())).keys() == expected - {"lm_head.weight"}


def test_each_tensor_lies_where_its_name_says() -> None:
    """Catches gate and up swapped, experts in another order, transposed matrices."""
    net = random_model(full_config(tie_word_embeddings=False), 0)
    tensors = to_hub(net)
    experts, ahead = net.layers[1].mlp.experts, net.mtp[0]
    for i in range(2):
        stem = f"model.layers.1.mlp.experts.{i}."
        assert torch.equal(tensors[stem + "gate_proj.weight"], experts.gate_up_proj[i, :16])
        assert torch.equal(tensors[stem + "up_proj.weight"], experts.gate_up_proj[i, 16:])
        assert torch.equal(tensors[stem + "down_proj.weight"], experts.down_proj[i])
    for key, value in {
        "model.layers.1.mlp.gate.weight": net.layers[1].mlp.router.weight,
        "model.layers.1.mlp.gate.e_score_correction_bias": net.layers[1].mlp.router.bias,
        "model.norm.weight": net.norm.weight,
        "lm_head.weight": net.lm_head.weight,
        "model.layers.2.enorm.weight": ahead.enorm.weight,
        "model.layers.2.hnorm.weight": ahead.hnorm.weight,
        "model.layers.2.eh_proj.weight": ahead.eh_proj.weight,
        "model.layers.2.shared_head.norm.weight": ahead.norm.weight,
        "model.layers.2.mlp.gate.e_score_correction_bias": ahead.block.mlp.router.bias,
        "model.layers.2.embed_tokens.weight": net.embed_tokens.weight,
        "model.layers.2.shared_head.head.weight": net.lm_head.weight,
    }.items():
        assert torch.equal(tensors[key], value), key


@settings(max_examples=30, derandomize=True)
@given(config=small_configs(), ahead=st.integers(0, 2), seed=st.integers(0, 1000))
def test_every_model_makes_the_round_trip(config: ModelConfig, ahead: int, seed: int) -> None:
    """To the bit, into a model that holds other weights: what is not copied stays different."""
    config = ModelConfig.from_dict(config.to_dict() | {"num_nextn_predict_layers": ahead})
    net, other = random_model(config, seed), random_model(config, seed + 1)
    tensors = to_hub(net)
    before = dict(tensors)
    from_hub(tensors, other, "x")
    same(net, other)
    assert tensors.keys() == before.keys() and all(tensors[key] is value for key, value in before.items())
    assert (other.lm_head.weight is other.embed_tokens.weight) == config.tie_word_embeddings


@pytest.mark.parametrize("values", [{}, {"tie_word_embeddings": False}, DENSE])
def test_a_folder_is_read_by_transformers(values: dict[str, Any], tmp_path: Path) -> None:
    """The promise of the export: from_pretrained finds every tensor, and computes what we compute."""
    from transformers import DeepseekV3ForCausalLM

    net = random_model(tiny_config(**values), 0)
    save_file(to_hub(net), tmp_path / "model.safetensors", metadata={"format": "pt"})
    hf_config_file(net.config, tmp_path)
    theirs, report = DeepseekV3ForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    ids = token_ids(net.config, 2, 9)
    close(net.logits(net(ids).hidden), theirs(input_ids=ids).logits, "logits", 1e-5)
    theirs.save_pretrained(tmp_path / "back")
    other = random_model(net.config, 1)
    from_hub(load_file(tmp_path / "back" / "model.safetensors"), other, "x")
    same(net, other)


@pytest.mark.parametrize("tied", [True, False])
def test_blocks_ahead_are_read_by_transformers(tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own conversion of names, not by ours."""
    from transformers import DeepseekV3ForCausalLM
    from transformers.modeling_layers import MtpModel

    net = random_model(tiny_config(num_nextn_predict_layers=2, tie_word_embeddings=tied), 0)
    save_file(to_hub(net), tmp_path / "model.safetensors", metadata={"format": "pt"})
    hf_config_file(net.config, tmp_path)
    # transformers knows the blocks of the original by their number, 61.
    monkeypatch.setattr(DeepseekV3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.[34].*"])
    main, report = DeepseekV3ForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    loaded, expected = MtpModel.from_pretrained(main).state_dict(), hf_mtp(net, hf_twin(net)).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.items())


def hf_config_file(config: ModelConfig, folder: Path) -> None:
    from transformers import DeepseekV3Config

    DeepseekV3Config(**hf_config.to_hub(config)).save_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_copies_ahead_belong_to_embedding_and_head(tied: bool) -> None:
    """A tied head is the table; files hold them for loaders that know no sharing."""
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    config = tiny_config(num_nextn_predict_layers=2, tie_word_embeddings=tied)
    assert shared_copies(config) == {
        "model.layers.3.embed_tokens.weight": "model.embed_tokens.weight",
        "model.layers.3.shared_head.head.weight": head,
        "model.layers.4.embed_tokens.weight": "model.embed_tokens.weight",
        "model.layers.4.shared_head.head.weight": head,
    }
    assert shared_copies(tiny_config()) == {}
    net, other = random_model(config, 0), random_model(config, 1)
    tensors = {key: value for key, value in to_hub(net).items() if key not in shared_copies(config)}
    from_hub(tensors, other, "x")  # files without the copies are as good
    same(net, other)


def test_a_tied_head_may_be_there_again() -> None:
    """Some savers write it all the same."""
    net, other = random_model(tiny_config(), 0), random_model(tiny_config(), 1)
    from_hub({**to_hub(net), "lm_head.weight": net.lm_head.weight.detach()}, other, "x")
    same(net, other)


def test_bf16_tensors_keep_biases_in_fp32_and_are_widened_for_an_fp32_model() -> None:
    """Files of the hub are in bf16; a router bias rounded to it no longer moves by 1e-3."""
    net = random_model(full_config(), 0).bfloat16()
    tensors = to_hub(net)
    kept = {key for key, value in tensors.items() if value.dtype == torch.float32}
    assert kept == {f"model.layers.{i}.mlp.gate.e_score_correction_bias" for i in (1, 2)}
    assert {value.dtype for value in tensors.values()} == {torch.float32, torch.bfloat16}
    same_type, wide = random_model(full_config(), 1).bfloat16(), random_model(full_config(), 2)
    from_hub(tensors, same_type, "x")
    same(net, same_type)
    from_hub(tensors, wide, "x")
    same(net.float(), wide)
    rounded = {key: value.bfloat16() for key, value in tensors.items()}  # saved by others with all in bf16
    from_hub(rounded, wide, "x")
    assert all(router.bias.dtype == torch.float32 for router in routers(wide))


def test_exported_tensors_stand_alone() -> None:
    """safetensors refuses memory that is shared, or not contiguous; training on must not change what was exported."""
    net = random_model(full_config(), 0)
    tensors = to_hub(net)
    assert all(value.is_contiguous() and not value.requires_grad for value in tensors.values())
    assert len({value.data_ptr() for value in tensors.values()}) == len(tensors)
    before = {key: value.clone() for key, value in tensors.items()}
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in tensors.items())


def test_reading_leaves_gradients_possible() -> None:
    """Training goes on from weights of the hub: parameters stay parameters."""
    net = Transformer(full_config())
    from_hub(to_hub(random_model(full_config(), 0)), net, "x")
    net(token_ids(net.config, 1, 5), look_ahead=True).ahead[0].sum().backward()
    assert all(p.requires_grad for p in net.parameters()) and net.embed_tokens.weight.grad is not None
    assert all(not r.bias.requires_grad for r in net.modules() if isinstance(r, Router))


def change(key: str, value: Tensor | None) -> dict[str, Tensor]:
    """The tensors of ``full_config()`` with one changed, or left out."""
    tensors = to_hub(random_model(full_config(), 0))
    return {k: v for k, v in {**tensors, key: value}.items() if v is not None}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.norm.weight", None, "x lacks the tensor model.norm.weight; its config.json and its weights do not"),
        (EXPERT + "up_proj.weight", None, f"x lacks the tensor {EXPERT}up_proj.weight; its config.json and"),
        ("model.layers.2.eh_proj.weight", None, "x lacks the tensor model.layers.2.eh_proj.weight; its config.json"),
        ("model.norm.weight", torch.ones(31), "x has model.norm.weight of shape (31,), not (32,) as in config.json."),
        (EXPERT + "down_proj.weight", torch.ones(32, 8), f"x has {EXPERT}down_proj.weight of shape"),
        (EXPERT + "up_proj.weight", torch.ones(16, 31), f"x has {EXPERT}up_proj.weight of shape"),
        (EXPERT + "up_proj.weight", torch.ones(()), f"x has {EXPERT}up_proj.weight of shape (), not"),
        ("model.layers.9.foo", torch.ones(1), "x holds 1 tensors that its config.json has no place for, such as model"),
        ("model.layers.1.mlp.experts.2.up_proj.weight", torch.ones(1), "x holds 1 tensors that its config.json has no"),
        ("model.layers.2.embed_tokens.weight", torch.ones(61, 32), "x holds model.layers.2.embed_tokens.weight that d"),
        (
            "model.layers.2.shared_head.head.weight",
            torch.ones(61, 32),
            "x holds model.layers.2.shared_head.head.weight",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(key: str, value: Tensor | None, said: str) -> None:
    """A tensor that is left at its random start, or dropped, makes a model that is silently not the one given."""
    with pytest.raises(UserError) as error:
        from_hub(change(key, value), Transformer(full_config()), "x")
    assert str(error.value).startswith(said)
    assert str(error.value).endswith(".")


def test_gate_and_up_of_other_widths_are_refused_though_their_rows_fit_together() -> None:
    """24 + 8 rows are as many as 16 + 16: joined without a look, rows of the one would be taken for the other."""
    tensors = change(EXPERT + "gate_proj.weight", torch.ones(24, 32)) | {EXPERT + "up_proj.weight": torch.ones(8, 32)}
    with pytest.raises(UserError, match=r"gate_proj\.weight of shape \(24, 32\), not \(16, 32\)"):
        from_hub(tensors, Transformer(full_config()), "x")
