"""DeepSeek-V3's recipe: the sign rule, its freeze, and the loss within sequences.

Each docstring names mutations of the rule that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from s15erav3.balancing import AuxiliaryLoss, DeepSeekV3, LossFree
from s15erav3.errors import UserError
from tests.balancing.parts import micro_batch, random_scores, routing_of

LOADS = torch.tensor([[10, 2, 4, 4], [0, 0, 0, 20]])


def test_the_bias_moves_by_the_sign_until_the_freeze_and_not_after_it() -> None:
    """Seen to fail with ``schedule="constant"``, and with a ``freeze_at`` that is not handed on."""
    rule = DeepSeekV3(rate=0.1, freeze_at=0.6)
    expected = 0.1 * torch.tensor([[-1.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, -1.5]])
    for progress in (0.0, 0.59):
        torch.testing.assert_close(rule.bias_update(LOADS, progress), expected)
    for progress in (0.6, 1.0):
        assert (rule.bias_update(LOADS, progress) == 0).all()


def test_defaults_are_the_papers() -> None:
    """Section 4.2: u = 0.001 for 14.3 T tokens and 0 for the last 0.5 T, alpha = 0.0001. Seen to fail with others."""
    rule = DeepSeekV3()
    assert (rule.rate, rule.freeze_at, rule.alpha) == (1e-3, 14.3 / 14.8, 1e-4)
    assert torch.equal(rule.bias_update(LOADS, 0.5), LossFree(1e-3).bias_update(LOADS, 0.5))


def test_the_loss_looks_at_each_sequence_alone() -> None:
    """Seen to fail with the loss over the whole micro-batch, with a sum over sequences, and with alpha left out.

    The first sequence goes to expert 0 alone: f = (2, 0), P = (0.75, 0.25), so 1.5; the second to both evenly:
    f = (1, 1), so 1. The other way round evenly over the two sequences, the micro-batch would hide half of it.
    """
    one = routing_of([[0.75, 0.25], [0.6, 0.2], [0.8, 0.4], [0.3, 0.9]], 1)
    loss = DeepSeekV3(alpha=0.5).loss(micro_batch(one, sequences=2))
    torch.testing.assert_close(loss, torch.tensor(0.5 * (1.5 + 1) / 2))
    both = DeepSeekV3(alpha=0.5).loss(micro_batch(one, one, sequences=2))
    torch.testing.assert_close(both, 2 * loss)


def test_a_batch_that_is_even_only_as_a_whole_is_seen() -> None:
    """Two sequences that go to one expert each are even together. Seen to fail with the loss over the micro-batch."""
    apart = routing_of([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], 1)
    assert DeepSeekV3(alpha=1.0).loss(micro_batch(apart, sequences=2)).item() == pytest.approx(1.8)
    assert DeepSeekV3(alpha=1.0).loss(micro_batch(apart, sequences=1)).item() == pytest.approx(1.0)


def test_it_is_the_auxiliary_loss_of_that_scope() -> None:
    """The two share a formula, which test_auxiliary.py checks. Seen to fail with another scope."""
    batch = micro_batch(routing_of(random_scores(24, 6, 0), 2), routing_of(random_scores(24, 6, 1), 2), sequences=4)
    torch.testing.assert_close(DeepSeekV3(alpha=0.3).loss(batch), AuxiliaryLoss(0.3, "sequence").loss(batch))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"rate": 0.0}, "balancing.rate=0.0"), ({"freeze_at": 1.5}, "freeze_at=1.5"), ({"alpha": 0.0}, "alpha=0.0")],
)
def test_bad_values_are_refused_by_key_and_value(settings: dict[str, Any], said: str) -> None:
    """alpha = 0 is loss_free. Seen to fail without each check."""
    with pytest.raises(UserError, match=said):
        DeepSeekV3(**settings)
