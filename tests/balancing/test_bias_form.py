"""Biases that multiply affinities or act on logits: the choice by hand, and the same loads in the end.

Docstrings name mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

import pytest
import torch

from s15erav3.balancing import BIP, Balancer, LossFree, Quantile, Sinkhorn
from s15erav3.balancing.base import update_biases
from s15erav3.balancing.diagnostics import max_violation
from s15erav3.errors import UserError
from s15erav3.interop.hf_config import to_hub
from s15erav3.model import ConfigError, Router
from s15erav3.model.router import affinities, logits_of
from tests.balancing.parts import config, inputs, reader, skewed
from tests.training.parts import tiny_net


@pytest.mark.parametrize(("form", "chosen"), [("sum", 0), ("product", 1), ("logits", 0)])
def test_the_choice_by_hand(form: str, chosen: int) -> None:
    """s = (0.8, 0.5). With b = (-0.2, 0.08), s + b is (0.6, 0.58) and the logits (1.39, 0) become (1.19, 0.08); with
    b = (-0.4, 0.08), s (1 + b) is (0.48, 0.54). Weights are s.

    Seen to fail with s b in place of s (1 + b), and with the bias in the weights.
    """
    router = reader(2, 1, bias_form=form, norm_topk_prob=False)
    router.bias.copy_(torch.tensor([-0.4, 0.08]) if form == "product" else torch.tensor([-0.2, 0.08]))
    routing = router(inputs(torch.tensor([[0.8, 0.5]]).logit()))
    assert routing.experts.item() == chosen
    torch.testing.assert_close(routing.weights.item(), [0.8, 0.5][chosen])
    assert router.choose(inputs(torch.tensor([[0.8, 0.5]]).logit()))[0].item() == chosen


def test_forms_differ_where_they_should() -> None:
    """s = (0.8, 0.7), b = (0, 0.12): 0.8 against 0.82 as a sum, 0.784 as a product, and logits 1.39 against 0.97. A
    larger b of 3 does not make up for logits of 6.9 against 2.2. Seen to fail with each form in place of another.
    """
    found = {}
    for form in ("sum", "product", "logits"):
        router = reader(2, 1, bias_form=form)
        router.bias.copy_(torch.tensor([0.0, 0.12]))
        found[form] = router(inputs(torch.tensor([[0.8, 0.7]]).logit())).experts.item()
    assert found == {"sum": 1, "product": 0, "logits": 0}
    router = reader(2, 1, bias_form="logits")
    router.bias.copy_(torch.tensor([0.0, 3.0]))
    assert router(inputs(torch.tensor([[0.999, 0.9]]).logit())).experts.item() == 0


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax", "sqrtsoftplus"])
def test_logits_are_those_before_the_gate(scoring: str) -> None:
    """Of softmax up to a constant. Seen to fail with each inverse in place of another."""
    logits = torch.tensor([[-6.0, -1.0, 0.0, 2.0, 8.0]], dtype=torch.float64)
    found = logits_of(affinities(logits, scoring), scoring)
    shift = (found - logits).mean() if scoring == "softmax" else 0.0
    torch.testing.assert_close(found - shift, logits)


@pytest.mark.parametrize("form", ["sum", "product", "logits"])
def test_the_sign_rule_balances_with_each(form: str) -> None:
    """Seen to fail with the sign of the bias turned in the choice."""
    router, x = skewed(8, 2, seed=0, bias_form=form)
    rule = LossFree(0.05)
    rule.attach([router])
    with torch.no_grad():
        assert max_violation(router(x).load[None]) > 1
        for _ in range(100):
            update_biases([router], rule.bias_update(router(x).load[None], 0.0))
        assert max_violation(router(x).load[None]) < 0.3
        assert torch.equal(router.train(False)(x).experts, router.train()(x).experts)  # in evaluation too


@pytest.mark.parametrize("balancer", [Quantile(), BIP(), Sinkhorn()], ids=lambda b: type(b).__name__)
def test_strategies_that_solve_for_a_sum_are_refused(balancer: Balancer) -> None:
    with pytest.raises(UserError, match=r"found experts\.bias_form=product; use experts\.bias_form=sum"):
        balancer.attach([Router(config(4, 2, bias_form="product"))])


def test_export_and_unknown_forms_are_refused() -> None:
    with pytest.raises(UserError, match=r"experts\.bias_form=logits cannot be exported"):
        to_hub(tiny_net(bias_form="logits").config)
    with pytest.raises(ConfigError, match="bias_form=mean must be one of sum, product, logits"):
        config(4, 2, bias_form="mean")
