"""The bias within sequences against its rule token by token in plain Python, and its causality.

Each docstring names mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from s15erav3.balancing import CausalSequenceBias, LossFree
from s15erav3.balancing.base import update_biases
from s15erav3.balancing.diagnostics import max_violation
from s15erav3.errors import UserError
from s15erav3.model import Router, Routing, routers
from tests.balancing.parts import config, micro_batch, skewed
from tests.tiny import result, train
from tests.training.parts import tiny_net

STRENGTH, PRIOR = 0.3, 3.0


def attached(router: Router, block: int) -> CausalSequenceBias:
    """The strategy on a router with different biases."""
    with torch.no_grad():
        router.bias.copy_(torch.linspace(-0.05, 0.1, len(router.bias)))
    balancer = CausalSequenceBias(0.1, strength=STRENGTH, prior=PRIOR, block=block)
    balancer.attach([router])
    return balancer


def sets(routing: Routing) -> list[set[int]]:
    """The experts of each token."""
    return [set(row) for row in routing.experts.tolist()]


def one_after_another(scores: Tensor, bias: Tensor, k: int, block: int) -> list[set[int]]:
    """The rule of one sequence, (T, E), as it is written."""
    experts, chosen = scores.shape[1], []
    for t, row in enumerate(scores.tolist()):
        first = t - t % block
        counts = [sum(i in its for its in chosen[:first]) for i in range(experts)]
        fair, even = first * k / experts, (first + PRIOR) * k / experts
        value = [row[i] + bias[i].item() + STRENGTH * (fair - counts[i]) / even for i in range(experts)]
        chosen.append(set(sorted(range(experts), key=lambda i: -value[i])[:k]))
    return chosen


@pytest.mark.parametrize("block", [1, 5, 16])
def test_a_token_sees_the_loads_before_its_block(block: int) -> None:
    """Three sequences of twelve tokens. Seen to fail with counts of the last block alone, with counts over all
    sequences, with the other sign, without t0 in the denominator, without the bias, and with blocks that count their
    own choices by s + b."""
    router, x = skewed(6, 2, seed=3)
    attached(router, block)
    routing = router(x[:36], sequences=3)
    scores = routing.scores.detach()
    wanted = [s for part in scores.split(12) for s in one_after_another(part, router.bias, 2, block)]
    assert sets(routing) == wanted
    plain = router.eval()(x[:36], sequences=3)
    assert (sets(plain) == wanted) == (block > 12)  # evaluation chooses by s + b
    assert sets(plain) == [set(r) for r in (scores + router.bias).topk(2).indices.tolist()]
    weights = scores.gather(1, routing.experts)
    torch.testing.assert_close(routing.weights, weights / weights.sum(dim=1, keepdim=True))
    assert torch.equal(routing.bias, router.bias)


@pytest.mark.parametrize(
    "settings", [{}, {"bias_form": "product"}, {"n_group": 2, "topk_group": 1, "n_routed_experts": 4}], ids=str
)
def test_a_later_token_changes_no_earlier_choice(settings: dict[str, object]) -> None:
    """In a whole model in training, for every place in the sequence. Seen to fail with counts of the whole sequence,
    and where the router is not told of the sequences."""
    net = tiny_net(**settings).train()
    CausalSequenceBias(0.1, strength=1.0, prior=2.0, block=3).attach(routers(net))
    ids = torch.randint(30, (2, 10), generator=torch.Generator().manual_seed(2))
    plain = [routing.experts for routing in net.eval()(ids).routings]
    before = net.train()(ids).routings
    assert any(not torch.equal(a.sort().values, b.experts.sort().values) for a, b in zip(plain, before, strict=True))
    for place in range(1, 10):
        other = ids.clone()
        other[0, place:] = (other[0, place:] + 1 + place) % 30
        for one, two in zip(before, net(other).routings, strict=True):
            mine, its = (r.experts.sort().values.view(2, 10, -1) for r in (one, two))
            assert torch.equal(mine[1], its[1])  # the other sequence
            assert torch.equal(mine[0, :place], its[0, :place])


def test_the_sign_rule_sees_the_loads_of_evaluation() -> None:
    """Seen to fail with the loads of the step, and with loads that are kept."""
    router, x = skewed(6, 2, seed=0)
    balancer, plain = attached(router, block=3), LossFree(0.1)
    for tokens in (x[:64], -x[64:128]):
        loads = torch.zeros(1, 6, dtype=torch.int64)
        for part in tokens.split(32):
            routing = router(part, sequences=2)
            balancer.observe(micro_batch(routing, sequences=2))
            chosen = (routing.scores + router.bias).topk(2).indices.flatten()
            loads += torch.bincount(chosen, minlength=6)
        other = torch.tensor([[64, 0, 64, 0, 0, 0]])
        assert torch.equal(balancer.bias_update(other, 0.0), plain.bias_update(loads, 0.0))
        assert not torch.equal(plain.bias_update(loads, 0.0), plain.bias_update(other, 0.0))


def test_sequences_become_even_and_so_does_the_bias() -> None:
    """Sequences that each favour another expert: within each, MaxVio falls by more than half against the bias alone,
    and evaluation without it is even over all of them."""
    router = Router(config(8, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        router.weight.copy_(torch.eye(8, 16))

    def tokens() -> Tensor:
        topics = 0.7 * torch.randn(16, 1, 16, generator=generator)
        lasting = torch.linspace(0.5, -0.5, 16)
        return (topics + lasting + 0.5 * torch.randn(16, 64, 16, generator=generator)).flatten(0, 1)

    balancer = CausalSequenceBias(0.02, strength=0.4, block=8, schedule="cosine")
    balancer.attach([router])
    for step in range(100):
        routing = router(tokens(), sequences=16)
        balancer.observe(micro_batch(routing, sequences=16))
        update_biases([router], balancer.bias_update(routing.load.unsqueeze(0), step / 100))

    def within(routing: Routing) -> float:
        used = torch.zeros(1024, 8).scatter(1, routing.experts, 1.0).view(16, 64, 8)
        return max_violation(used.sum(dim=1)).mean().item()

    x = tokens()
    biased, plain = router(x, sequences=16), router.eval()(x, sequences=16)
    assert within(biased) < 0.5 * within(plain)
    many = torch.stack([router(tokens(), sequences=16).load for _ in range(20)]).sum(dim=0)
    assert max_violation(many.unsqueeze(0)).item() < 0.15


@pytest.mark.slow
def test_a_compiled_step_is_one_graph() -> None:
    net = tiny_net().train()
    CausalSequenceBias(0.1, strength=1.0, prior=2.0, block=2).attach(routers(net))
    ids = torch.randint(30, (2, 6), generator=torch.Generator().manual_seed(0))
    plain = net(ids).hidden
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids).hidden, plain)


def test_a_run_with_micro_batches_and_prediction_blocks(tmp_path: Path) -> None:
    settings = ["experts=e8", "balancing=causal_sequence_bias", "model.num_nextn_predict_layers=1"]
    assert train(*settings, "trainer.accumulate_grad_batches=2", "trainer.max_steps=3", run_dir=tmp_path / "run") == 0
    assert result(tmp_path / "run")["status"] == "completed"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"topk_method=threshold"):
        CausalSequenceBias(0.1).attach([Router(config(4, 2, topk_method="threshold", norm_topk_prob=False))])
    for values in ({"strength": 0}, {"prior": 0}, {"block": 0}, {"block": 1.5}, {"rate": 0}):
        with pytest.raises(UserError, match=rf"balancing\.{next(iter(values))}="):
            CausalSequenceBias(**{"rate": 0.1, **values})
