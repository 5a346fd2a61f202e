"""Expert thresholds on numbers written down, token by token in plain Python, and through the verbs.

Each docstring names mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from s15erav3.__main__ import main
from s15erav3.balancing import AddOns, ExpertThreshold, LossFree
from s15erav3.balancing.base import update_biases
from s15erav3.balancing.routing_diagnostics import by_expert, chosen, coactivation, slots
from s15erav3.errors import UserError
from s15erav3.interop.hf_config import to_hub
from s15erav3.model import ModelConfig, Router, Transformer, routers
from s15erav3.model.checks import ConfigError
from s15erav3.model.decode import Decoder
from s15erav3.model.experts import RoutedExperts
from s15erav3.model.kv_cache import LatentCache
from tests.balancing.parts import config, inputs, micro_batch, reader
from tests.tiny import result, train
from tests.training.parts import tiny_net

THRESHOLDS = {"topk_method": "threshold", "norm_topk_prob": False}


def thresholded(layers_ahead: int = 0) -> Transformer:
    """Its biases are minus the thresholds: around the median of the affinities."""
    net = tiny_net(**THRESHOLDS, num_nextn_predict_layers=layers_ahead)
    with torch.no_grad():
        for router in routers(net):
            router.bias.sub_(0.5)
            router.weight.mul_(20)
    return net.eval()


def test_a_token_uses_the_experts_above_their_thresholds() -> None:
    """Seen to fail with ``>= 0``, with s instead of s + b, with weights that include the bias, with a load that counts
    unused slots, and with the lowest two of three."""
    router = reader(4, 1, **THRESHOLDS)
    with torch.no_grad():
        router.bias.copy_(torch.tensor([-0.5, -0.5, -0.9, -0.2]))
    rows = [[0.0, 0.0, 0.0, -9.0], [1.0, 2.0, 1.0, -9.0], [3.0, 1.0, 3.0, 2.0], [-1.0, 0.0, 0.0, 0.0]]
    wanted = [set(), {0, 1}, {0, 3}, {3}]  # token 2 exceeds all four, by .45, .23, .05, .68: at most two are used
    for mode in (True, False):
        routing = router.train(mode)(inputs(rows))
        used = [{e for e in row if e < 4} for row in routing.experts.tolist()]
        assert used == wanted and routing.experts.shape == (4, 2)
        assert routing.load.tolist() == [2, 1, 0, 2]
        weights = torch.zeros(4, 4)
        for token, experts in enumerate(wanted):
            for expert in experts:
                weights[token, expert] = torch.tensor(rows[token][expert]).sigmoid()
        torch.testing.assert_close(by_expert(routing, routing.weights), weights)
        assert torch.equal(chosen(routing), weights > 0)
        pairs = [(t, e) for t, experts in enumerate(wanted) for e in experts]
        assert sorted(zip(*(column.tolist() for column in slots(routing)), strict=True)) == sorted(pairs)
        assert coactivation(routing).tolist() == [[2, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2]]


@pytest.fixture
def undefined_is_nan() -> Iterator[None]:
    """Memory that nothing has written to holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def test_experts_compute_what_is_used_and_nothing_else(undefined_is_nan: None) -> None:
    """Values and gradients against one expert after the other. Seen to fail without the last end (undefined rows) and
    with weights that are not masked."""
    torch.manual_seed(0)
    cfg = config(5, 2, **THRESHOLDS)
    router, experts = Router(cfg).double(), RoutedExperts(cfg).double()
    with torch.no_grad():
        for parameter in (*router.parameters(), *experts.parameters()):
            parameter.normal_(std=0.5)
        router.bias.copy_(torch.tensor([-0.9, -0.8, -2.0, -0.85, -0.7]))  # nobody uses expert 2
    x = torch.randn(40, 16, dtype=torch.float64)
    routing = router(x)
    used = chosen(routing)
    assert 0 in used.sum(1) and used.sum(1).max() > 2 and not used[:, 2].any()
    found = experts(x, routing)
    table = routing.scores * used
    wanted = torch.zeros_like(x)
    for e in range(5):
        gate, up = F.linear(x, experts.gate_up_proj[e]).chunk(2, -1)
        wanted = wanted + table[:, e : e + 1] * F.linear(F.silu(gate) * up, experts.down_proj[e])
    torch.testing.assert_close(found, wanted)
    seed = torch.randn_like(x)
    parameters = [*experts.parameters(), router.weight]
    for mine, its in zip(
        torch.autograd.grad((found * seed).sum(), parameters, retain_graph=True),
        torch.autograd.grad((wanted * seed).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, its)


def test_thresholds_follow_the_quantiles_of_the_step() -> None:
    """Against a sort of each expert's affinities. Seen to fail with the quantile of the other end, with a centred bias,
    with the last micro-batch alone, with an average that starts at the bias of 0, and with an average that forgets
    nothing."""
    router = reader(4, 1, **THRESHOLDS)
    balancer = ExpertThreshold(ema=0.6)
    balancer.attach([router])
    generator = torch.Generator().manual_seed(0)
    thresholds: torch.Tensor | None = None
    for step in range(5):
        batches = [inputs(torch.randn(12, 4, generator=generator) + torch.arange(4) / 4) for _ in range(2)]
        found = []
        for batch in batches:
            routing = router(batch)
            balancer.observe(micro_batch(routing))
            found.append(routing.scores)
        highest = torch.cat(found).sort(dim=0, descending=True).values  # a quarter of 24: between the sixth and seventh
        now = (highest[5] + highest[6]) / 2
        kept = min(0.6, step / (step + 1))
        thresholds = now if thresholds is None else kept * thresholds + (1 - kept) * now
        update_biases([router], balancer.bias_update(torch.ones(1, 4, dtype=torch.int64), 0.0))
        torch.testing.assert_close(router.bias, -thresholds, rtol=1e-5, atol=1e-6)


def test_each_expert_gets_its_share_of_tokens_like_the_last() -> None:
    router = reader(4, 1, **THRESHOLDS, max_experts_per_tok=4)
    balancer = ExpertThreshold()
    balancer.attach([router])
    x = inputs(torch.randn(400, 4, generator=torch.Generator().manual_seed(1)))
    balancer.observe(micro_batch(router(x)))
    update_biases([router], balancer.bias_update(torch.ones(1, 4, dtype=torch.int64), 0.0))
    assert router(x).load.tolist() == [100] * 4


def test_decoding_with_a_cache_uses_the_same_experts() -> None:
    """One token at a time and several at once. Seen to fail where unused slots count with their affinity."""
    net = thresholded()
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    with torch.no_grad():
        out = net(ids)
        assert len({int(n) for n in chosen(out.routings[0]).sum(1)}) > 1
        for parts in ([3, 1, 1, 1], [2, 2, 2]):
            cache = LatentCache(net.config, 1, 8, device=ids.device, dtype=torch.float32)
            net(ids[:, : parts[0]], cache.advance(parts[0]))
            decoder, seen = Decoder(net, torch.float32), parts[0]
            for part in parts[1:]:
                found = decoder(ids[:, seen : seen + part], cache.advance(part))
                torch.testing.assert_close(found, out.hidden[:, seen : seen + part])
                seen += part


def test_earlier_tokens_do_not_feel_later_ones() -> None:
    """In training, too: the promise against expert choice."""
    net = thresholded().train()
    ids = torch.randint(30, (1, 12), generator=torch.Generator().manual_seed(2))
    other = ids.clone()
    other[0, 8:] = (other[0, 8:] + 1) % 30
    for one, two in zip(net(ids).routings, net(other).routings, strict=True):
        assert torch.equal(one.experts[:8].sort().values, two.experts[:8].sort().values)
    assert net.config.causal


@pytest.mark.slow
def test_a_compiled_step_is_one_graph() -> None:
    net = thresholded().train()
    ids = torch.randint(30, (2, 6), generator=torch.Generator().manual_seed(0))
    plain = net(ids).hidden
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids).hidden, plain)


def test_a_run_is_evaluated_sampled_reported_and_refused_by_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    settings = ["experts=e8", "balancing=expert_threshold", "balancing.bins=1000", "trainer.max_steps=8"]
    assert train(*settings, run_dir=run_dir) == 0
    found = result(run_dir)
    assert found["balance/maxvio_global"] < 1 and "balance/maxvio_floor_global" not in found
    assert "balance/step_churn" in found and "balance/churn" not in found
    assert main(["sample", str(run_dir), "max_new_tokens=2"]) == 0
    assert main(["evaluate", str(run_dir), "ablate=experts", "ablate_mode=zero", "ablate_tokens=100"]) == 0
    assert main(["report", str(run_dir)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run_dir), "ablate=experts"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["export", str(run_dir), str(tmp_path / "hub")]) == 2
    assert "topk_method=threshold cannot be exported" in capsys.readouterr().err


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"balancing=expert_threshold needs experts\.topk_method=threshold"):
        ExpertThreshold().attach([Router(config(4, 2))])
    for strategy in (LossFree(0.1), AddOns(capacity_factor=1.0)):
        with pytest.raises(UserError, match="use balancing=expert_threshold"):
            strategy.attach([Router(config(4, 2, **THRESHOLDS))])
    with pytest.raises(UserError, match="topk_method=threshold cannot be exported"):
        to_hub(thresholded().config)
    for values, said in (
        ({"max_experts_per_tok": 3}, "max_experts_per_tok=3 is for topk_method=threshold"),
        ({**THRESHOLDS, "max_experts_per_tok": 1}, "max_experts_per_tok=1 must be from num_experts_per_tok=2"),
        ({**THRESHOLDS, "max_experts_per_tok": 5}, "max_experts_per_tok=5 must be from"),
        ({**THRESHOLDS, "norm_topk_prob": True}, "needs n_group=1 and norm_topk_prob=false"),
        ({**THRESHOLDS, "bias_form": "product"}, "needs bias_form=sum"),
        ({**THRESHOLDS, "num_experts_per_tok": 4}, "num_experts_per_tok=4 below n_routed_experts"),
    ):
        with pytest.raises(ConfigError, match=said):
            config(4, 2, **values) if "num_experts_per_tok" not in values else ModelConfig.from_dict(
                {**config(4, 2).to_dict(), **values}
            )
