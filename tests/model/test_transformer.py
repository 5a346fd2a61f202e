"""The whole decoder: causality, building, initial weights, compiling."""

from __future__ import annotations

import math

import pytest
import torch

from s15erav3.model import ModelConfig, Router, Transformer
from s15erav3.model.experts import RoutedExperts
from tests.model.reference import random_model, tiny_config, token_ids

DENSE = {"n_routed_experts": 0, "n_shared_experts": 0, "num_experts_per_tok": 0, "first_k_dense_replace": 0}


@pytest.mark.parametrize("values", [{}, {"q_lora_rank": 24, "first_k_dense_replace": 0}, DENSE])
def test_a_token_never_sees_those_after_it(values: dict[str, int]) -> None:
    """A leak of the future gives a wonderful loss and a useless model."""
    config = tiny_config(**values)
    model = random_model(config, 0).double()
    ids = token_ids(config, 2, 9)
    before = model(ids)
    for t in (1, 4, 8):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % config.vocab_size
        after = model(changed).hidden
        torch.testing.assert_close(after[:, :t], before.hidden[:, :t], rtol=1e-12, atol=1e-12)
        assert ((after[:, t:] - before.hidden[:, t:]).abs().amax(dim=-1) > 1e-9).all()  # and does see those before
    longer = model(torch.cat((ids, ids), dim=1))
    torch.testing.assert_close(longer.hidden[:, :9], before.hidden, rtol=1e-12, atol=1e-12)


def test_position_matters() -> None:
    """Without rotary positions a repeated token would give the same state everywhere but for its context."""
    model = random_model(tiny_config(), 0).double()
    hidden = model(torch.tensor([[7, 7, 7, 7], [7, 7, 7, 7]])).hidden
    torch.testing.assert_close(hidden[0], hidden[1])
    ids = torch.tensor([[3, 5, 7, 9], [5, 3, 7, 9]])
    swapped = model(ids).hidden
    assert (swapped[0, -1] - swapped[1, -1]).abs().max() > 1e-6


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_any_length_up_to_the_limit_works(length: int) -> None:
    """Catches shapes that only fit even or full sequences."""
    config = tiny_config()
    out = random_model(config, 0)(token_ids(config, 3, length))
    assert out.hidden.shape == (3, length, 32)
    assert all(r.scores.shape == (3 * length, 6) and r.experts.shape == (3 * length, 2) for r in out.routings)


def test_hidden_states_are_normalised_before_the_head() -> None:
    """Catches a final norm that is forgotten, or applied twice by ``logits``."""
    config = tiny_config()
    model = random_model(config, 0)
    torch.nn.init.ones_(model.norm.weight)
    hidden = model(token_ids(config, 2, 5)).hidden
    torch.testing.assert_close(hidden.pow(2).mean(-1), torch.ones(2, 5), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.logits(hidden), hidden @ model.embed_tokens.weight.T)


def test_a_tied_head_is_the_embedding_and_an_untied_one_is_not() -> None:
    """Catches a tie that is a copy: the two would drift apart."""
    tied, untied = Transformer(tiny_config()), Transformer(tiny_config(tie_word_embeddings=False))
    assert tied.lm_head.weight is tied.embed_tokens.weight
    assert untied.lm_head.weight is not untied.embed_tokens.weight
    assert not torch.equal(untied.lm_head.weight, untied.embed_tokens.weight)
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 61 * 32
    other = Transformer(tiny_config())
    other.load_state_dict(tied.state_dict())
    assert other.lm_head.weight is other.embed_tokens.weight
    assert torch.equal(other.lm_head.weight, tied.embed_tokens.weight)


def test_initial_weights_are_normal_with_the_configured_spread() -> None:
    """Catches parameters left as torch's own initialisation or uninitialised: routers and expert stacks."""
    torch.manual_seed(0)
    config = tiny_config(
        hidden_size=64, intermediate_size=192, vocab_size=500, initializer_range=0.05, tie_word_embeddings=False
    )
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            n = parameter.numel()
            assert abs(parameter.std().item() / 0.05 - 1) < 5 / math.sqrt(2 * n), name
            assert abs(parameter.mean().item()) < 5 * 0.05 / math.sqrt(n), name
            assert parameter.abs().max() > 2.2 * 0.05, name  # no truncated or uniform distribution
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, Router))


def test_the_seed_decides_the_weights() -> None:
    """Catches weights that depend on more than torch's generator."""

    def build(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return Transformer(tiny_config()).state_dict()

    a, b, c = build(1), build(1), build(2)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["layers.1.mlp.experts.down_proj"], c["layers.1.mlp.experts.down_proj"])


def test_deepseek_v3_itself_can_be_built_on_the_meta_device() -> None:
    """Catches an allocation that ignores the default device: 671 B parameters would not fit."""
    config = ModelConfig(
        vocab_size=129280,
        hidden_size=7168,
        num_layers=61,
        num_heads=128,
        kv_lora_rank=512,
        q_lora_rank=1536,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        intermediate_size=18432,
        moe_intermediate_size=2048,
        n_routed_experts=256,
        n_shared_experts=1,
        num_experts_per_tok=8,
        first_k_dense_replace=3,
        routed_scaling_factor=2.5,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = Transformer(config)
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    assert 670e9 < sum(p.numel() for p in model.parameters()) < 672e9  # "671B"


def test_a_model_built_on_meta_can_be_given_memory() -> None:
    """The usual way to load large weights: build on meta, ``to_empty``, then load."""
    config = tiny_config()
    source = random_model(config, 0)
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device="cpu")
    model.load_state_dict(source.state_dict())
    ids = token_ids(config, 1, 5)
    torch.testing.assert_close(model(ids).hidden, source(ids).hidden)


def test_gradients_reach_every_parameter() -> None:
    """Catches a detached branch; every expert has tokens here."""
    config = tiny_config(q_lora_rank=24, tie_word_embeddings=False)
    model = random_model(config, 0, bias=0.05)
    out = model(token_ids(config, 4, 16))
    assert all((r.load > 0).all() for r in out.routings)
    model.logits(out.hidden).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        if isinstance(model.get_submodule(name.rpartition(".")[0]), RoutedExperts):
            assert (parameter.grad.abs().amax(dim=(1, 2)) > 0).all(), name


def test_autocast_stays_close_to_fp32() -> None:
    """Catches an operator that loses precision under mixed precision, or crosses dtypes and fails."""
    config = tiny_config(q_lora_rank=24)
    model = random_model(config, 0, bias=3.0)  # large biases: the choices are those of fp32
    ids = token_ids(config, 2, 9)
    exact = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(ids)
    for a, b in zip(exact.routings, mixed.routings, strict=True):
        assert torch.equal(a.experts.sort(-1).values, b.experts.sort(-1).values)
    error = (mixed.hidden.float() - exact.hidden).norm() / exact.hidden.norm()
    assert 1e-5 < error < 5e-2
    mixed.hidden.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_the_forward_leaves_no_trace_in_the_model() -> None:
    """Routing is a value: counters in buffers are counted twice under checkpointing and overwritten by DDP."""
    config = tiny_config()
    model = random_model(config, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = {name: set(vars(module)) for name, module in model.named_modules()}
    model(token_ids(config, 2, 5)).hidden.sum().backward()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert names == {name: set(vars(module)) for name, module in model.named_modules()}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_model_gives_what_the_eager_one_gives(backend: str) -> None:
    """Catches fake kernels that disagree with the real ones, and graphs specialised on the first loads."""
    config = tiny_config(num_layers=1, first_k_dense_replace=0)
    model = random_model(config, 0)
    names = set(model.state_dict())
    batches = [token_ids(config, 2, 9, seed=s) for s in range(3)]
    expected = [model(ids) for ids in batches]
    loss = model.logits(expected[0].hidden).square().mean()
    grads = torch.autograd.grad(loss, list(model.parameters()))

    torch._dynamo.reset()
    model.compile(backend=backend)
    assert set(model.state_dict()) == names  # a checkpoint must not tell whether its model was compiled
    got = [model(ids) for ids in batches]
    for ours, want in zip(got, expected, strict=True):
        torch.testing.assert_close(ours.hidden, want.hidden, rtol=1e-4, atol=1e-5)
        assert [r.load.tolist() for r in ours.routings] == [r.load.tolist() for r in want.routings]
    compiled = torch.autograd.grad(model.logits(got[0].hidden).square().mean(), list(model.parameters()))
    for ours_grad, want_grad in zip(compiled, grads, strict=True):
        torch.testing.assert_close(ours_grad, want_grad, rtol=1e-3, atol=1e-4)
