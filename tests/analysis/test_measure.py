"""A pass over a text against the same figures counted by hand, with tokens choosing and with experts choosing."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from s15erav3.analysis.collect import Routed
from s15erav3.analysis.measure import Measured, measure, next_churn
from s15erav3.analysis.summary import closest_companion, summary
from s15erav3.analysis.tables import long_table
from s15erav3.balancing.base import Balancer, MicroBatch
from s15erav3.data.labels import Domain
from s15erav3.model import ModelConfig, Transformer, routers

CONFIG = ModelConfig(
    vocab_size=40, hidden_size=16, num_layers=3, num_heads=2, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4,
    v_head_dim=8, intermediate_size=48, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2,
    n_shared_experts=1, first_k_dense_replace=1, max_position_embeddings=64,
)  # fmt: skip
BY_EXPERTS = dataclasses.replace(CONFIG, topk_method="expert_choice", norm_topk_prob=False)
LENGTH = 8


def made(config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    net = Transformer(config).eval()
    for router in routers(net):
        torch.nn.init.normal_(router.weight)
        torch.nn.init.normal_(router.bias, std=0.1)
    return net


def text(tokens: int = 51) -> tuple[Tensor, dict[str, Domain], list[Tensor]]:
    """Ids, a domain of three values, and the windows of the ids in two batches and a short one."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(40, (tokens,), generator=generator)
    codes = torch.randint(3, (tokens,), generator=generator).numpy()
    windows = [ids[i : i + LENGTH + 1] for i in range(0, tokens - 1, LENGTH)]
    batches = [torch.stack(windows[:4]), torch.stack(windows[4:6]), windows[6][None]]
    return ids, {"shade": Domain(codes, ["dark", "light", "none"])}, batches


def measured(net: Transformer, **more: Any) -> Measured:
    _, labels, batches = text()
    return measure(net, batches, labels, torch.ones(40, dtype=torch.int64), autocast=nullcontext, **more)


def routed_by(net: Transformer, **more: Any) -> Routed:
    routed = measured(net, **more).routed
    assert routed is not None
    return routed


def test_counts_are_those_of_each_token_by_itself() -> None:
    """Catches labels that slip by a window or a batch, the last token counted, targets labelled for inputs."""
    net = made()
    ids, labels, batches = text()
    slots = np.zeros((2, 3, 4), dtype=np.int64)
    position = 0
    with torch.no_grad():
        for batch in batches:
            for window in batch:
                routings = net(window[None, :-1]).routings
                for t in range(len(window) - 1):
                    for layer in range(2):
                        for expert in routings[layer].experts[t].tolist():
                            slots[layer, labels["shade"].codes[position], expert] += 1
                    position += 1
    routed = routed_by(net)
    assert position == len(ids) - 1
    assert routed.domains["shade"].slots.tolist() == slots.tolist()
    assert routed.domains["shade"].tokens.tolist() == np.bincount(labels["shade"].codes[:-1]).tolist()
    assert routed.layers == [1, 2]
    assert torch.equal(routed.biases, torch.stack([router.bias for router in routers(net)]))


def test_words_are_counted_by_what_follows_and_by_what_is_predicted() -> None:
    """Catches the input counted again, the prediction of another position, and one that does not occur in the text."""
    net = made()
    ids, labels, batches = text()
    occurring, codes = np.unique(ids.numpy(), return_inverse=True)
    absent = next(i for i in range(40) if i not in occurring)
    net.lm_head.weight.data[absent] *= 50  # it is never read, but often predicted
    labels["token"] = Domain(codes.astype(np.int64), [f"w{i}" for i in occurring])
    routed = measure(
        net, batches, labels, torch.ones(40, dtype=torch.int64), vocabulary=torch.from_numpy(occurring),
        autocast=nullcontext,
    ).routed  # fmt: skip
    assert routed is not None and len(occurring) < 40
    expected: dict[str, dict[str, int]] = {"token": {}, "next_token": {}, "predicted_token": {}}
    with torch.no_grad():
        for batch in batches:
            out = net(batch[:, :-1])
            best = net.logits(out.hidden).argmax(dim=-1).flatten().tolist()
            chosen = out.routings[1].experts.tolist()
            for t, words in enumerate(
                zip(batch[:, :-1].flatten().tolist(), batch[:, 1:].flatten().tolist(), best, strict=True)
            ):
                for name, word in zip(expected, words, strict=True):
                    key = f"w{word}" if word in occurring else "(not in the text)"
                    expected[name][key] = expected[name].get(key, 0) + chosen[t].count(3)
    for name, counts in expected.items():
        its = routed.domains[name]
        found = dict(zip(its.values, its.slots[1, :, 3].tolist(), strict=True))
        assert {k: v for k, v in found.items() if v} == {k: v for k, v in counts.items() if v}, name
        assert its.tokens.sum() == 50
    assert "(not in the text)" in expected["predicted_token"]


@pytest.mark.parametrize("config", [CONFIG, BY_EXPERTS], ids=["tokens choose", "experts choose"])
def test_the_table_adds_up(config: ModelConfig) -> None:
    """Catches rows lost or doubled, a transposed table, and another's load beside co-activation."""
    result = measured(made(config))
    assert result.routed is not None
    table = long_table(result.routed, 50).to_pylist()
    loads = {(r["layer"], r["expert"]): r["count"] for r in table if r["domain"] == "all"}
    assert {r["of"] for r in table if r["domain"] == "all"} == {50}
    for (layer, expert), load in loads.items():
        mine = [r for r in table if (r["layer"], r["expert"]) == (layer, expert)]
        assert sum(r["count"] for r in mine if r["domain"] == "shade") == load
        assert sum(r["of"] for r in mine if r["domain"] == "shade") == 50
        together = {r["value"]: r for r in mine if r["domain"] == "expert"}
        assert together[f"E{expert:02d}"]["count"] == load
        for other in range(4):
            assert together[f"E{other:02d}"]["of"] == loads[layer, other]
        if config is CONFIG:
            assert sum(r["count"] for r in together.values()) == 2 * load  # K = 2: itself and one other
    assert loads == {
        (layer, e): n
        for layer, row in zip([1, 2], result.routed.loads.tolist(), strict=True)
        for e, n in enumerate(row)
    }


def test_zeros_are_left_out_of_names_alone() -> None:
    """Catches a phase that vanishes because one expert never saw it."""
    net = made()
    routers(net)[0].bias.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0]))
    _, labels, batches = text()
    labels["token"] = labels["shade"]
    found = measure(net, batches, labels, torch.ones(40, dtype=torch.int64), autocast=nullcontext).routed
    assert found is not None
    table = [r for r in long_table(found, 50).to_pylist() if r["layer"] == 1]
    assert sorted(r["expert"] for r in table if r["domain"] == "shade") == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert sorted(r["expert"] for r in table if r["domain"] == "token") == [0, 0, 0, 1, 1, 1]


def test_saturation_of_itself_is_one_and_of_a_stranger_chance() -> None:
    """Catches the reference reading other windows, and layers compared crosswise."""
    net = made()
    assert routed_by(net, reference=net).per_layer["saturation"].tolist() == [1.0, 1.0]
    half = made()
    routers(half)[1].bias.copy_(-routers(net)[1].bias.sign() * 9)
    mixed = routed_by(net, reference=half).per_layer["saturation"]
    assert mixed[0] == 1 and mixed[1] < 1
    assert "saturation" not in routed_by(net).per_layer


class Push(Balancer):
    """Moves the biases by fixed amounts and remembers what it was shown."""

    def __init__(self, change: Tensor) -> None:
        super().__init__()
        self.change = change
        self.seen: list[tuple[int, int, list[list[int]]]] = []

    def observe(self, micro_batch: MicroBatch) -> None:
        self.seen.append((len(micro_batch.routings), micro_batch.sequences, []))

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        self.seen[-1][2].extend(loads.tolist())
        assert progress == 0
        return self.change


def test_churn_of_the_next_bias() -> None:
    """Catches biases that are really moved, every batch tried, and change of one layer applied to another."""
    net = made()
    before = [router.bias.clone() for router in routers(net)]
    push = Push(torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, 9.0, -9.0, -9.0]]))
    routed = routed_by(net, balancer=push)
    assert routed.per_layer["next_churn"][0] == 0
    with torch.no_grad():
        first = net(text()[2][0][:, :-1]).routings
    turned = [set(experts) != {0, 1} for experts in first[1].experts.tolist()]
    assert routed.per_layer["next_churn"][1].item() == pytest.approx(sum(turned) / len(turned))
    assert push.seen == [(2, 4, [routing.load.tolist() for routing in first])]
    assert all(torch.equal(router.bias, bias) for router, bias in zip(routers(net), before, strict=True))


def test_churn_shows_the_blocks_that_predict_ahead_to_the_strategy() -> None:
    """Strategies have a row for each router, those of multi-token prediction included; the result leaves them out."""
    net = made(dataclasses.replace(CONFIG, num_nextn_predict_layers=1))
    routed = routed_by(net, balancer=Push(torch.zeros(3, 4)))
    assert routed.per_layer["next_churn"].tolist() == [0.0, 0.0]
    assert next_churn(net, Push(torch.zeros(3, 4)), torch.tensor([[1]])) is None


def test_experts_that_choose_have_neither_margin_nor_churn() -> None:
    """Catches a crash, or figures made of slots: there a token has no K-th expert."""
    net = made(BY_EXPERTS)
    result = summary(measured(net, balancer=Push(torch.zeros(2, 4)), reference=net))
    absent = ("margin", "next_churn", "maxvio_floor_global", "coactivation_even")
    assert not any(f"balance/{name}" in result for name in absent)
    assert result["balance/saturation"] == 1
    assert result["balance/maxvio_global"] == 0  # every expert takes as many
    assert 0.25 < result["balance/confidence"] < 1


def test_closest_companion_by_hand() -> None:
    """Catches the diagonal taken for company, and dead experts in the mean."""
    counts = torch.tensor([[[10, 5, 1], [5, 20, 0], [1, 0, 1]], [[4, 4, 0], [4, 8, 0], [0, 0, 0]]])
    expected = torch.tensor([(0.5 + 0.25 + 1) / 3, (1 + 0.5) / 2], dtype=torch.float64)
    torch.testing.assert_close(closest_companion(counts), expected)


def chance(tokens: int, experts: int, k: int) -> float:
    """MaxVio of even, random routing of so many tokens, tried out."""
    draw = np.random.default_rng(0)
    loads = np.stack([np.bincount(draw.permuted(np.tile(np.arange(experts), (tokens, 1)), axis=1)[:, :k].ravel(),
                                  minlength=experts) for _ in range(2000)])  # fmt: skip
    return float(((loads.max(axis=1) - loads.mean(axis=1)) / loads.mean(axis=1)).mean())


def test_summary_names_means_and_layers() -> None:
    """Catches means over the wrong axis, a layer's position for its number, numbers that JSON cannot hold, and the
    floor of twice the tokens, or of half of them."""
    routed = routed_by(made())
    result = summary(Measured({"loss": 1.0, "bpb": 1.0, "tokens": 50, "bytes": 50}, routed, torch.zeros(50)))
    for name in ("maxvio_global", "minvio_global", "gini_global", "entropy_global", "cv_global", "bias_norm",
                 "bias_spread", "confidence", "margin", "coactivation", "output_similarity"):  # fmt: skip
        layers = [result[f"layer_{layer:02d}/{name}"] for layer in (1, 2)]
        assert result[f"balance/{name}"] == pytest.approx(np.mean(layers)), name
    for name in ("bits", "bits_plug_in", "share", "share_of_expert"):
        layers = [result[f"layer_{layer:02d}/specialisation/shade/{name}"] for layer in (1, 2)]
        assert result[f"specialisation/shade/{name}"] == pytest.approx(np.mean(layers))
    assert result["load"] == routed.loads.tolist()
    assert result["balance/maxvio_floor_global"] == pytest.approx(chance(50, 4, 2), rel=0.05)
    assert all(isinstance(value, int | float | list) for value in result.values())


def test_a_dense_model_has_its_cost_alone() -> None:
    """Catches an empty table of no layers."""
    dense = dataclasses.replace(
        CONFIG, n_routed_experts=0, num_experts_per_tok=0, n_shared_experts=0, first_k_dense_replace=0,
        moe_intermediate_size=None,
    )  # fmt: skip
    result = measured(made(dense))
    assert result.routed is None
    assert set(summary(result)) == {"text/loss", "text/bpb", "text/tokens", "text/bytes"}
