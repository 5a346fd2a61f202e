"""Routers: the bias chooses and never weights, and stays fp32 whatever happens to the model."""

from __future__ import annotations

import copy

import pytest
import torch

from s15erav3.model import Router, Transformer, routers
from s15erav3.model.experts import SwiGLU
from s15erav3.model.moe import MoE
from tests.model.reference import random_model, tiny_config, token_ids


def router_of(seed: int = 0, **values: object) -> Router:
    router = Router(tiny_config(**values))
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(router.weight, generator=generator)
    router.bias.normal_(generator=generator)
    return router


def tokens(n: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("normalise", [True, False])
def test_the_bias_chooses_and_never_weights(normalise: bool) -> None:
    """The bug most often shipped: gate weights gathered from the biased scores."""
    router, x = router_of(norm_topk_prob=normalise, routed_scaling_factor=2.5), tokens()
    routing = router(x)
    scores = torch.sigmoid(x @ router.weight.T)
    torch.testing.assert_close(routing.scores, scores)
    biased = (scores + router.bias).topk(2, dim=-1).indices
    assert torch.equal(routing.experts.sort(-1).values, biased.sort(-1).values)
    assert not torch.equal(routing.experts.sort(-1).values, scores.topk(2, dim=-1).indices.sort(-1).values)
    weights = scores.gather(1, routing.experts)
    if normalise:
        weights = weights / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(routing.weights, 2.5 * weights)


def test_shifting_all_biases_together_changes_nothing() -> None:
    """Only differences of biases may matter: centring relies on it."""
    router, x = router_of(), tokens()
    before = router(x)
    router.bias += 0.75
    after = router(x)
    assert torch.equal(before.experts.sort(-1).values, after.experts.sort(-1).values)
    assert torch.equal(before.load, after.load) and torch.equal(before.scores, after.scores)


def test_a_large_bias_takes_every_token_at_its_unbiased_weight() -> None:
    """Catches a bias of the wrong sign, and one that is added before the sigmoid."""
    router, x = router_of(norm_topk_prob=False), tokens()
    router.bias.zero_()
    router.bias[4] = 100.0
    routing = router(x)
    assert routing.load[4] == 50
    slot = routing.experts == 4
    torch.testing.assert_close(routing.weights[slot], routing.scores[:, 4])
    router.bias[4] = -100.0
    assert router(x).load[4] == 0


@pytest.mark.parametrize(("n", "k"), [(6, 1), (6, 2), (6, 6), (1, 1)])
def test_load_counts_every_choice_once(n: int, k: int) -> None:
    """Catches a load that counts tokens instead of choices, or only experts up to the largest one chosen."""
    routing = router_of(n_routed_experts=n, num_experts_per_tok=k, moe_intermediate_size=8)(tokens(37))
    assert routing.load.dtype == torch.int64 and routing.load.shape == (n,)
    assert routing.load.sum() == 37 * k
    assert torch.equal(routing.load, torch.bincount(routing.experts.flatten(), minlength=n))
    assert all(len(set(row)) == k for row in routing.experts.tolist())


def test_loads_of_a_model_sum_to_tokens_times_k_in_every_layer() -> None:
    """Catches a layer whose tokens are counted twice or not at all."""
    config = tiny_config(first_k_dense_replace=1, num_experts_per_tok=3, n_shared_experts=3)
    out = random_model(config, 0)(token_ids(config, 3, 11))
    assert [int(r.load.sum()) for r in out.routings] == [3 * 11 * 3] * 2


@pytest.mark.parametrize("cast", ["bfloat16", "half", "double", "float"])
def test_casting_a_model_leaves_its_biases_alone_to_the_bit(cast: str) -> None:
    """A bias rounded to bf16 swallows updates of 1e-3; widened to fp64 it would not load into fp32 runs."""
    model = random_model(tiny_config(), 0)
    before = [router.bias.clone() for router in routers(model)]
    getattr(model, cast)()
    assert model.embed_tokens.weight.dtype == torch.empty(0).__getattribute__(cast)().dtype
    for router, bias in zip(routers(model), before, strict=True):
        assert router.bias.dtype == torch.float32 and torch.equal(router.bias, bias)
        assert "bias" in dict(router.named_buffers()) and "bias" in router.state_dict()
    ids = token_ids(model.config, 2, 5)
    if cast != "half":  # fp16 attention is not offered on CPUs of every kind
        assert torch.isfinite(model(ids).hidden).all()


def test_to_bf16_by_dtype_or_by_device_keeps_the_bias() -> None:
    """``.to()`` takes another way through torch than ``.bfloat16()``; a copy must keep a bias of its own."""
    model = random_model(tiny_config(), 0)
    bias = routers(model)[0].bias.clone()
    twin = copy.deepcopy(model).to(torch.bfloat16).to("cpu", torch.float16)
    assert routers(twin)[0].bias.dtype == torch.float32
    assert torch.equal(routers(twin)[0].bias, bias)
    routers(twin)[0].bias += 1
    assert torch.equal(routers(model)[0].bias, bias)


def test_bias_is_a_persistent_buffer_and_no_parameter() -> None:
    """A bias that is not saved loses the balance on resuming; one that is a Parameter is trained and decayed."""
    router = router_of()
    assert set(dict(router.named_parameters())) == {"weight"}
    assert set(router.state_dict()) == {"weight", "bias"}
    assert not router.bias.requires_grad
    other = Router(tiny_config())
    other.load_state_dict(router.state_dict())
    assert torch.equal(other.bias, router.bias)


def test_no_gradient_reaches_choices_or_bias_but_weights_and_scores_have_one() -> None:
    """Catches detached gate weights (the router would learn nothing) and a bias inside the graph."""
    router, x = router_of(), tokens().requires_grad_()
    routing = router(x)
    assert routing.weights.requires_grad and routing.scores.requires_grad
    assert not routing.load.requires_grad and not routing.experts.requires_grad
    (routing.weights**2).sum().backward()
    assert router.weight.grad is not None and router.weight.grad.abs().max() > 0
    assert x.grad is not None and x.grad.abs().max() > 0
    assert router.bias.grad is None


def test_scores_are_fp32_under_autocast_and_for_a_bf16_model() -> None:
    """bf16 scores tie often: experts of low number would be preferred."""
    router, x = router_of(), tokens()
    expected = router(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = router(x)
        low = router(x.bfloat16())
    assert mixed.scores.dtype == mixed.weights.dtype == low.scores.dtype == torch.float32
    assert torch.equal(mixed.scores, expected.scores)
    cast = copy.deepcopy(router).bfloat16()(x.bfloat16())
    assert cast.scores.dtype == torch.float32
    torch.testing.assert_close(cast.scores, torch.sigmoid(x.bfloat16().float() @ router.weight.bfloat16().float().T))
    assert copy.deepcopy(router).double()(x.double()).scores.dtype == torch.float64


def test_saturated_scores_of_zero_give_finite_weights() -> None:
    """Scores underflow to 0 for large negative logits: without an epsilon 0 / 0 poisons the model."""
    router = router_of()
    torch.nn.init.constant_(router.weight, -100.0)
    routing = router(torch.ones(3, 32))
    assert (routing.scores == 0).all() and torch.isfinite(routing.weights).all()


def test_routers_come_in_the_order_of_the_routings() -> None:
    """Loads of one layer must not move the bias of another."""
    config = tiny_config(num_layers=4)
    model = random_model(config, 0)
    assert [id(r) for r in routers(model)] == [id(b.mlp.router) for b in model.layers if isinstance(b.mlp, MoE)]
    assert [isinstance(b.mlp, SwiGLU) for b in model.layers] == [True, False, False, False]
    for layer in range(3):
        for router in routers(model):
            router.bias.zero_()
        routers(model)[layer].bias[5] = 100.0
        loads = [int(r.load[5]) for r in model(token_ids(config, 2, 8)).routings]
        assert [load == 16 for load in loads] == [i == layer for i in range(3)]


def test_a_router_in_an_extra_module_is_found() -> None:
    """Multi-token-prediction blocks whose experts are never balanced: a bug that others shipped."""

    class WithExtra(Transformer):
        def __init__(self) -> None:
            super().__init__(tiny_config())
            self.extra = torch.nn.ModuleDict({"block": MoE(tiny_config())})

    model = WithExtra()
    assert len(routers(model)) == 3
    assert routers(model)[-1] is model.extra["block"].router
    assert routers(torch.nn.Linear(2, 2)) == []
