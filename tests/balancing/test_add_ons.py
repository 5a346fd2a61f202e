"""What combines with every strategy: z-loss, jitter, expert dropout, capacity; and how it is combined.

Each docstring names mutations of the rule that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from s15erav3.balancing import SMEBU, AddOns, AuxiliaryLoss, Combined, LossFree, MicroBatch, SimBal, Unbalanced
from s15erav3.errors import UserError
from s15erav3.model import Router
from s15erav3.model.moe import MoE
from s15erav3.model.selection import capacity, within_capacity
from tests.balancing.parts import config, inputs, micro_batch, random_scores, reader, routing_of, skewed, softmax_config
from tests.model.reference import naive_experts


def with_rules(router: Router, **rules: Any) -> Router:
    AddOns(**rules).attach([router])
    return router


# --- z-loss -----------------------------------------------------------------------------------------------------


def test_z_loss_by_hand() -> None:
    """Seen to fail without the square, with the log of a mean for the log of a sum, with a sum over tokens, and with
    a mean over layers."""
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    routing = routing_of([[0.5, 0.5], [0.1, 0.9]], 1)._replace(logits=logits)
    expected = (math.log(2) ** 2 + math.log(math.e + math.e**3) ** 2) / 2
    add_ons = AddOns(z_loss=0.1)
    torch.testing.assert_close(add_ons.loss(micro_batch(routing)), torch.tensor(0.1 * expected))
    torch.testing.assert_close(add_ons.loss(micro_batch(routing, routing)), torch.tensor(0.2 * expected))
    assert AddOns().loss(micro_batch(routing)) is None


def test_z_loss_reads_the_logits_before_the_gate_and_shrinks_them() -> None:
    """Seen to fail with scores for logits, whose gradient is another, and with logits detached."""
    router = reader(3, 1)
    x = inputs([[2.0, -1.0, 0.5]])
    loss = AddOns(z_loss=1.0).loss(micro_batch(router(x)))
    assert loss is not None
    loss.backward()
    z, share = torch.tensor([2.0, -1.0, 0.5]).logsumexp(0), torch.tensor([2.0, -1.0, 0.5]).softmax(0)
    assert router.weight.grad is not None
    torch.testing.assert_close(router.weight.grad, 2 * z * share[:, None] * x)


# --- what routers do in training alone ----------------------------------------------------------------------------


def test_jitter_multiplies_the_routers_inputs_alone() -> None:
    """Seen to fail with a factor of U(0, j), noise that is added, one factor per token, and experts fed with it."""
    torch.manual_seed(0)
    moe = MoE(config(4, 2))
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with_rules(moe.router, router_jitter=0.25)
    x = torch.randn(500, 16)
    torch.manual_seed(1)
    factors = torch.empty_like(x).uniform_(0.75, 1.25)
    torch.manual_seed(1)
    out, routing = moe(x)
    torch.testing.assert_close(routing.logits, (x * factors) @ moe.router.weight.T)
    naive = naive_experts(x, routing, moe.experts.gate_up_proj, moe.experts.down_proj)
    torch.testing.assert_close(out, naive, rtol=1e-4, atol=1e-5)


def test_expert_dropout_silences_choices_and_keeps_the_mean() -> None:
    """Seen to fail without the factor 1 / (1 - p), with whole tokens dropped, and with normalisation afterwards."""
    router, x = skewed(8, 2, seed=0)
    x = x.repeat(20, 1)
    undisturbed = router(x)
    torch.manual_seed(0)
    routing = with_rules(router, expert_dropout=0.25)(x)
    assert torch.equal(routing.experts, undisturbed.experts) and torch.equal(routing.load, undisturbed.load)
    assert torch.equal(routing.scores, undisturbed.scores)
    silent = routing.weights == 0
    assert silent.double().mean().item() == pytest.approx(0.25, abs=0.02)
    assert silent.all(dim=1).double().mean().item() == pytest.approx(0.25**2, abs=0.02)  # each by itself
    torch.testing.assert_close(routing.weights[~silent], undisturbed.weights[~silent] / 0.75)
    assert routing.weights.mean().item() == pytest.approx(undisturbed.weights.mean().item(), rel=0.03)


def test_capacity_drops_the_last_of_the_batch() -> None:
    """Seen to fail with the first ones dropped, places rounded down, places of all experts together, kept weights
    normalised anew, and ``dropped`` counted in the wrong direction.

    Five tokens choose experts 0 0 1 0 0; two experts of ceil(5 / 2 * 0.9) = 3 places: the fifth finds none.
    """
    x = inputs([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0], [4.0, 0.0]])
    router = with_rules(reader(2, 1, norm_topk_prob=False), capacity_factor=0.9)
    routing = router(x)
    kept = routing.scores.gather(1, routing.experts)
    assert routing.weights[:4].tolist() == kept[:4].tolist() and routing.weights[4].item() == 0
    assert routing.dropped is not None and routing.dropped.tolist() == [1, 0]
    assert routing.dropped.dtype == torch.int64
    assert routing.load.tolist() == [4, 1]  # the loads are those of the choice: balancing must see the crowd
    turned = router(x.flip(0))
    assert turned.weights.flatten().tolist() == [*kept.flip(0).flatten().tolist()[:4], 0.0]


@pytest.mark.parametrize(("experts", "k", "factor"), [(4, 1, 1.0), (6, 2, 1.25), (5, 3, 0.5), (8, 2, 10.0)])
def test_who_finds_a_place_one_by_one(experts: int, k: int, factor: float) -> None:
    """Against a queue per expert. Seen to fail with the queue in another order than the batch, and with a place too
    many."""
    chosen = random_scores(37, experts, seed=0).detach().topk(k).indices
    load = torch.bincount(chosen.flatten(), minlength=experts)
    places = capacity(37, experts, k, factor)
    taken, expected = [0] * experts, []
    for row in chosen.tolist():
        expected.append([taken[expert] < places for expert in row])
        for expert in row:
            taken[expert] += 1
    assert within_capacity(chosen, load, places).tolist() == expected


def test_places_by_hand() -> None:
    """Seen to fail with rounding down, without K, and with more places than tokens."""
    assert [capacity(10, 4, 1), capacity(10, 4, 2), capacity(10, 4, 2, 1.25), capacity(8, 4, 1)] == [3, 5, 7, 2]
    assert capacity(10, 4, 2, 100.0) == 10


def test_a_dropped_token_goes_nowhere_and_teaches_nothing() -> None:
    """Without a shared expert its output is exactly 0, and so is its gradient to router and experts. Seen to fail
    with a weight that is small in place of 0, and with dropping left out."""
    torch.manual_seed(0)
    moe = MoE(config(2, 1, norm_topk_prob=False))
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter)
    moe.router.weight.data.copy_(torch.eye(2, 16))
    with_rules(moe.router, capacity_factor=1.0)
    x = inputs([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 1.0]]).requires_grad_()
    out, routing = moe(x)
    assert routing.dropped is not None and routing.dropped.tolist() == [1, 0]
    assert (out[2] == 0).all() and (out[[0, 1, 3]].abs().amax(dim=1) > 0).all()
    out[2].sum().backward()
    assert x.grad is not None and (x.grad == 0).all()
    assert all(p.grad is not None and (p.grad == 0).all() for p in moe.parameters())


ALL = {"router_jitter": 0.3, "capacity_factor": 0.5, "expert_dropout": 0.5}


@pytest.mark.parametrize("rules", [{name: value} for name, value in ALL.items()] + [ALL], ids=lambda r: "+".join(r))
def test_evaluation_is_undisturbed(rules: dict[str, float]) -> None:
    """Seen to fail with rules that hold in evaluation, each of them."""
    router, x = skewed(8, 2, seed=0)
    plain = router.eval()(x)
    with_rules(router, **rules)
    state = torch.get_rng_state()
    routing = router(x)
    for name in ("scores", "experts", "weights", "load"):
        assert torch.equal(getattr(routing, name), getattr(plain, name)), name
    assert routing.dropped is None and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(router.choose(x)[1], plain.weights)
    router.train()
    assert not torch.equal(router(x).weights, plain.weights)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"z_loss": -1e-3}, r"balancing\.z_loss=-0\.001"),
        ({"router_jitter": 1.0}, r"balancing\.router_jitter=1\.0"),
        ({"router_jitter": -0.1}, r"balancing\.router_jitter=-0\.1"),
        ({"expert_dropout": 1.0}, r"balancing\.expert_dropout=1\.0"),
        ({"expert_dropout": "much"}, r"balancing\.expert_dropout=much"),
        ({"capacity_factor": 0.0}, r"balancing\.capacity_factor=0\.0.*null"),
        ({"capacity_factor": True}, r"balancing\.capacity_factor=True"),
        ({"capacity_factor": math.nan}, r"balancing\.capacity_factor=nan"),
    ],
)
def test_bad_values_are_refused_by_key_and_value(settings: dict[str, Any], said: str) -> None:
    """A capacity of 0 drops every token. Seen to fail without each check."""
    with pytest.raises(UserError, match=said):
        AddOns(**settings)


def test_a_capacity_is_refused_where_experts_choose() -> None:
    """They have their places by construction. Seen to fail without the check."""
    router = Router(softmax_config(4, 2, topk_method="expert_choice"))
    AddOns(expert_dropout=0.5, router_jitter=0.1, z_loss=0.1).attach([router])
    with pytest.raises(UserError, match=r"capacity_factor=1\.25"):
        AddOns(capacity_factor=1.25).attach([router])


# --- strategy and add-ons as one ------------------------------------------------------------------------------------


def test_losses_are_added_up() -> None:
    """Seen to fail with the strategy's loss alone, and with the add-ons' alone."""
    batch = micro_batch(routing_of(random_scores(8, 4, 0), 2))
    auxiliary, z = AuxiliaryLoss(0.1), AddOns(z_loss=0.01)
    both = Combined(auxiliary, z).loss(batch)
    one, other = auxiliary.loss(batch), z.loss(batch)
    assert both is not None and other is not None
    torch.testing.assert_close(both, one + other)
    for balancer, expected in ((Combined(auxiliary, AddOns()), one), (Combined(LossFree(0.1), z), other)):
        loss = balancer.loss(batch)
        assert loss is not None
        torch.testing.assert_close(loss, expected)
    assert Combined(LossFree(0.1), AddOns()).loss(batch) is None


def test_everything_else_is_the_strategys() -> None:
    """Seen to fail with each of ``observe``, ``bias_update`` and ``attach`` left out, and with ``causal`` not taken
    over."""

    class Sees(LossFree):
        causal = False

        def observe(self, micro_batch: MicroBatch) -> None:
            seen.append(micro_batch)

    seen: list[MicroBatch] = []
    combined, router = Combined(Sees(0.1), AddOns(router_jitter=0.1)), Router(config(4, 2))
    combined.attach([router])
    assert router.rules.router_jitter == 0.1 and not combined.causal and Combined(Unbalanced(), AddOns()).causal
    batch = micro_batch(routing_of([[0.5, 0.4, 0.3, 0.2]], 2))
    combined.observe(batch)
    assert seen == [batch]
    loads = torch.tensor([[4, 0, 1, 1]])
    assert torch.equal(combined.bias_update(loads, 0.5), LossFree(0.1).bias_update(loads, 0.5))
    with pytest.raises(UserError):
        Combined(LossFree(0.1), AddOns()).attach([Router(softmax_config(4, 2, topk_method="expert_choice"))])


def test_the_strategys_state_is_saved() -> None:
    """Seen to fail with the strategy kept out of reach of ``state_dict`` (in a list)."""
    combined = Combined(SMEBU(0.1), AddOns(z_loss=0.1))
    combined.attach([Router(config(4, 2))])
    combined.bias_update(torch.tensor([[4, 0, 0, 0]]), 0.0)
    assert list(combined.state_dict()) == ["strategy.momentum"]
    assert combined.state_dict()["strategy.momentum"].abs().max() > 0
    simbal = Combined(SimBal(), AddOns())
    simbal.attach([Router(config(4, 2))])
    assert not list(simbal.parameters())  # routers are the net's
