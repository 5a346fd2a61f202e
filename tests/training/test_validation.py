"""Figures of a validation from routings written down by hand.

Each docstring names mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

from s15erav3.balancing import Balancer, LossFree, Unbalanced
from s15erav3.balancing.diagnostics import random_floor
from s15erav3.model import Router, Routing
from s15erav3.training.validation import Validation
from tests.balancing.parts import config, inputs, reader, routing_of
from tests.training.parts import Windows, module_for, sgd, tiny_net, trainer

SCORES = [[0.8, 0.4, 0.2, 0.2], [0.1, 0.7, 0.6, 0.1], [0.3, 0.9, 0.3, 0.3]]
"""By the best alone: experts 0, 1, 1."""


def measured(*batches: Routing, **values: Any) -> dict[str, float]:
    """Figures of one layer over batches."""
    validation = Validation(config(4, 1, **values))
    for routing in batches:
        n = len(routing.scores)
        validation.update(torch.tensor(2.0 * n), torch.full((n,), 3), [routing])
    return {name: value.item() for name, value in validation.results(probed=False).items()}


def test_every_figure_by_hand() -> None:
    """Loads 1, 2, 0, 0 of a mean of 0.75. Seen to fail with each figure exchanged for another, and with a margin that
    leaves the bias out."""
    bias = [0.0, 0.0, 0.05, 0.0]
    found = measured(routing_of(SCORES, 1, bias))
    entropy = -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3)) / math.log(4)
    expected = {
        "val/loss": 2.0,
        "val/bpb": 2 / 3 / math.log(2),
        "balance/maxvio_global": 1.25 / 0.75,
        "balance/minvio_global": 1.0,
        "balance/entropy_global": entropy,
        "balance/cv_global": math.sqrt((0.25**2 + 1.25**2 + 2 * 0.75**2) / 4) / 0.75,
        "balance/gini_global": 2 * (2 * 1 + 2 * 2 + 1) / 16 / (2 * 0.75),
        "balance/load_p05_global": 0.0,  # of 0 0 4/3 8/3 fair shares, interpolated
        "balance/load_p50_global": 2 / 3,
        "balance/load_p95_global": 4 / 3 + 0.85 * 4 / 3,
        "balance/dead_experts_global": 2.0,
        "balance/maxvio_floor_global": random_floor(3, 4, 1),
        "balance/confidence": (0.8 / 1.6 + 0.7 / 1.5 + 0.9 / 1.8) / 3,
        "balance/margin": (0.4 + (0.7 - 0.65) + (0.9 - 0.35)) / 3,
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_batches_count_by_their_tokens() -> None:
    """Seen to fail with a mean over batches for confidence and margin."""
    whole = measured(routing_of(SCORES, 1))
    parts = measured(routing_of(SCORES[:1], 1), routing_of(SCORES[1:], 1))
    assert parts == pytest.approx(whole, rel=1e-6)


def test_churn_counts_the_tokens_whose_experts_the_last_update_turned() -> None:
    """The update lifted expert 1 by 0.3 and lowered expert 0 by 0.2: before it, tokens 1 and 2 of four chose expert 0.
    Seen to fail with the update added in place of taken away, and with its size for its effect."""
    router = reader(3, 1)
    router.bias.copy_(torch.tensor([-0.2, 0.3, 0.0]))
    # Scores 0.8 0.6 0.1; 0.6 0.55 0.1; 0.9 0.2 0.1; 0.1 0.2 0.9: s + b turns the first two.
    scores = torch.tensor([[0.8, 0.6, 0.1], [0.6, 0.55, 0.1], [0.9, 0.2, 0.1], [0.1, 0.2, 0.9]])
    routing = router(inputs(scores.logit()))
    assert routing.experts.flatten().tolist() == [1, 1, 0, 2]
    validation = Validation(config(3, 1))
    validation.update(torch.tensor(8.0), torch.ones(4, dtype=torch.int64), [routing])
    validation.probe([router], [routing], torch.tensor([[-0.2, 0.3, 0.0], [9.0, 0.0, 0.0]]))  # and an MTP layer's
    assert validation.results(probed=True)["balance/churn"].item() == 0.5
    assert "balance/churn" not in validation.results(probed=False)
    validation.reset()
    validation.probe([router], [routing], torch.tensor([[0.0, 0.0, 0.0]]))
    assert validation.churn.compute().item() == 0


def test_churn_is_about_sets_of_experts_and_limited_groups() -> None:
    """Seen to fail with a choice that ignores groups: it turns tokens which the router never would have."""
    router = Router(config(4, 2, n_group=2, topk_group=1))
    with torch.no_grad():
        router.weight.copy_(torch.eye(4, 16))
    routing = router(inputs(torch.tensor([[0.9, 0.7, 0.8, 0.1]]).logit()))
    assert sorted(routing.experts[0].tolist()) == [0, 1]  # not 0 and 2
    validation = Validation(config(4, 2, n_group=2, topk_group=1))
    validation.probe([router], [routing], torch.zeros(1, 4))
    assert validation.churn.compute().item() == 0


def test_where_experts_choose_there_is_neither_margin_nor_churn() -> None:
    """A token has no K there. Seen to fail without the distinction."""
    values = {"topk_method": "expert_choice", "scoring_func": "softmax", "norm_topk_prob": False}
    routing = reader(4, 1, **values)(inputs(torch.tensor(SCORES)))
    assert not {"balance/margin", "balance/churn", "balance/maxvio_floor_global"} & measured(routing, **values).keys()
    validation = Validation(config(4, 1, **values))
    validation.update(torch.tensor(1.0), torch.ones(3, dtype=torch.int64), [routing])
    validation.probe([], [routing], torch.zeros(1, 4))
    assert "balance/churn" not in validation.results(probed=True)


@pytest.mark.parametrize("balancer", [LossFree(0.2), Unbalanced()])
def test_a_training_reports_churn_once_biases_have_moved(balancer: Balancer) -> None:
    """On the first batch of a validation, by the last update. Before any step there is no figure. Seen to fail with a
    probe of all batches, and with the update doubled."""

    net, data = tiny_net(n_routed_experts=8), Windows()
    module = module_for(balancer, net, optimizer=partial(sgd, lr=0.0))
    run = trainer(2, limit_val_batches=1.0, val_check_interval=2)
    run.validate(module, data, verbose=False)
    assert "balance/churn" not in run.callback_metrics
    run.fit(module, data)
    assert module.last_step is not None and module.last_step.bias_update is not None
    with torch.no_grad():
        routings = net.eval()(next(iter(data.val_dataloader()))[:, :-1]).routings
    turned = [
        {*now} != {*before}
        for routing, change in zip(routings, module.last_step.bias_update, strict=True)
        for now, before in zip(
            routing.experts.tolist(), (routing.scores + routing.bias - change).topk(2).indices.tolist(), strict=True
        )
    ]
    found = run.callback_metrics["balance/churn"].item()
    assert found == pytest.approx(sum(turned) / len(turned))
    assert (found > 0.1) == isinstance(balancer, LossFree)
