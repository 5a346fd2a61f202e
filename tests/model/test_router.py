"""Routers: the bias chooses and never weights, and stays fp32 whatever happens to the model."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s15erav3.model import Router, Transformer, routers
from s15erav3.model.experts import SwiGLU
from s15erav3.model.moe import MoE
from s15erav3.model.router import affinities
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


def chosen_by(preferences: list[float], **values: object) -> set[int]:
    """Experts that one token chooses whose affinities are 1/2 each, so that the biases are all that differs."""
    router = Router(tiny_config(n_routed_experts=len(preferences), moe_intermediate_size=8, **values))
    torch.nn.init.zeros_(router.weight)
    router.bias.copy_(torch.tensor(preferences) - 0.5)
    return set(router(torch.ones(1, 32)).experts[0].tolist())


def test_closed_groups_cannot_be_chosen_however_low_the_open_ones_are() -> None:
    """Closed experts set to 0, as in DeepSeek's first code, would beat open ones whose s + bias is negative."""
    preferences = [-0.4, -0.9, -0.3, -0.2, -3.0, -0.1]  # groups of two: sums -1.3, -0.5, -3.1
    assert chosen_by(preferences, n_group=3, topk_group=1) == {2, 3}
    assert chosen_by(preferences, n_group=3, topk_group=2) == {2, 3}
    assert chosen_by(preferences, n_group=3, topk_group=2, num_experts_per_tok=3) == {0, 2, 3}
    assert chosen_by(preferences, n_group=3, topk_group=2, num_experts_per_tok=4) == {0, 1, 2, 3}
    assert chosen_by(preferences, n_group=3, topk_group=3) == {3, 5}  # all are open


def test_a_group_is_worth_its_best_two_experts() -> None:
    """Not its best one, as in DeepSeek-V2, nor all of them."""
    best_one = [0.9, 0.1, 0.1, 0.6, 0.5, -5.0]  # groups of three: best 0.9 and 0.6, best two 1.0 and 1.1
    assert chosen_by(best_one, n_group=2, topk_group=1) == {3, 4}
    assert chosen_by([0.4, 0.4, 0.4, 0.5, 0.5, 0.1], n_group=2, topk_group=1) == {3, 4}  # sums 1.2 and 1.1
    assert chosen_by(best_one, n_group=1, topk_group=1) == {0, 3}


@settings(max_examples=40, derandomize=True)
@given(
    groups=st.sampled_from([(1, 5), (2, 3), (3, 2), (4, 4)]),
    topk=st.integers(1, 4),
    k=st.integers(1, 4),
    softmax=st.booleans(),
    normalise=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_routing_token_by_token(
    groups: tuple[int, int], topk: int, k: int, softmax: bool, normalise: bool, seed: int
) -> None:
    """Equations 13 to 16 in plain Python: catches groups cut the wrong way, and a softmax over the chosen alone."""
    count, size = groups
    topk, k = min(topk, count), min(k, min(topk, count) * size)
    router = router_of(
        seed,
        n_routed_experts=count * size,
        n_group=count,
        topk_group=topk,
        num_experts_per_tok=k,
        moe_intermediate_size=8,
        scoring_func="softmax" if softmax else "sigmoid",
        norm_topk_prob=normalise,
        routed_scaling_factor=2.5,
    ).double()
    x = tokens(12, seed).double() / 4
    routing = router(x)
    for token, row in enumerate((x @ router.weight.T).tolist()):
        exponents = [math.exp(v) for v in row]
        scores = [e / sum(exponents) if softmax else e / (1 + e) for e in exponents]
        assert routing.scores[token].tolist() == pytest.approx(scores, rel=1e-12)
        preference = [s + b for s, b in zip(scores, router.bias.tolist(), strict=True)]
        worth = {g: sum(sorted(preference[g * size : (g + 1) * size])[-2:]) for g in range(count)}
        opened = sorted(worth, key=worth.__getitem__)[-topk:]
        candidates = [e for e in range(count * size) if e // size in opened]
        best = sorted(candidates, key=preference.__getitem__)[-k:]
        assert set(routing.experts[token].tolist()) == set(best)
        total = sum(scores[e] for e in best) if normalise else 1.0
        weights = dict(zip(routing.experts[token].tolist(), routing.weights[token].tolist(), strict=True))
        assert [weights[e] for e in best] == pytest.approx([2.5 * scores[e] / total for e in best], rel=1e-12)
    assert torch.equal(routing.load, torch.bincount(routing.experts.flatten(), minlength=count * size))


def test_softmax_affinities_are_a_distribution_and_stay_fp32() -> None:
    """Catches a softmax over tokens, and one in bf16 whose 64 affinities tie."""
    router, x = router_of(scoring_func="softmax", num_experts_per_tok=3, moe_intermediate_size=8), tokens()
    scores = router(x).scores
    expected = torch.softmax(x.double() @ router.weight.double().T, dim=1)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(scores.sum(1), torch.ones(50))
    assert router.bfloat16()(x.bfloat16()).scores.dtype == torch.float32


@pytest.mark.parametrize("groups", [{}, {"n_group": 3, "topk_group": 2}])
def test_shifting_all_biases_together_changes_nothing(groups: dict[str, int]) -> None:
    """Only differences of biases may matter: centring relies on it."""
    router, x = router_of(**groups), tokens()
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


def test_sqrtsoftplus_by_hand() -> None:
    """sqrt(log(1 + e^x)). Seen to fail with sigmoid, and without the root."""
    router = router_of(scoring_func="sqrtsoftplus", norm_topk_prob=False)
    x = tokens()
    routing = router(x)
    logits = (x @ router.weight.T).tolist()
    expected = [[math.sqrt(math.log1p(math.exp(value))) for value in row] for row in logits]
    torch.testing.assert_close(routing.scores, torch.tensor(expected))
    torch.testing.assert_close(routing.weights, routing.scores.gather(1, routing.experts))


@pytest.mark.parametrize("experts", [4, 64])
def test_an_orthogonal_router_has_orthonormal_rows_or_columns(experts: int) -> None:
    """With 32 numbers in a state. Seen to fail with the normal initialisation."""
    values = {"n_routed_experts": experts, "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 1}
    for router in routers(Transformer(tiny_config(router_init="orthogonal", **values))):
        rows = router.weight if experts <= 32 else router.weight.T
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)


def test_sqrtsoftplus_has_a_gradient_at_any_logit() -> None:
    """softplus of -104 and less is 0 in fp32, where the root's gradient is infinite."""
    logits = torch.tensor([[-200.0, -104.0, -90.0, -79.0, 0.0, 200.0]], requires_grad=True)
    affinities(logits, "sqrtsoftplus").sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert logits.grad[0, -3] > 0
