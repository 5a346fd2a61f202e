"""DeepSeek-V3's recipe as a composition: the sign rule, its freeze, and the loss within sequences.

Each docstring names mutations of the rule that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

import pytest
import torch

from s15erav3.balancing import AuxiliaryLoss, Combined, DeepSeekV3, LossFree
from s15erav3.balancing.auxiliary import sequence_loss
from s15erav3.session.build import build_balancer
from tests.balancing.parts import micro_batch, random_scores, routing_of
from tests.cli.test_numbers import composed

LOADS = torch.tensor([[10, 2, 4, 4], [0, 0, 0, 20]])


def dsv3(*settings: str) -> Combined:
    return build_balancer(composed("balancing=dsv3", *settings).balancing)


def test_the_bias_moves_by_the_sign_until_the_freeze_and_not_after_it() -> None:
    """Seen to fail with ``schedule: constant``, and without ``_self_`` at the end of the defaults."""
    rule = dsv3("balancing.rate=0.1", "balancing.freeze_at=0.6")
    expected = 0.1 * torch.tensor([[-1.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, -1.5]])
    for progress in (0.0, 0.59):
        torch.testing.assert_close(rule.bias_update(LOADS, progress), expected)
    for progress in (0.6, 1.0):
        assert (rule.bias_update(LOADS, progress) == 0).all()


@pytest.mark.parametrize("bias", [None, [0.3, -0.2, 0.0, 0.1, -0.3, 0.1]])
def test_it_has_the_numbers_of_version_0_2(bias: list[float] | None) -> None:
    """The composite counted the experts that a token used: ``counts=chosen``; without a bias both are the same.

    Seen to fail with another scope, with alpha left out, and with the default counts where there is a bias.
    """
    batch = micro_batch(*(routing_of(random_scores(24, 6, s).float(), 2, bias) for s in (0, 1)), sequences=4)
    counts = ["balancing.loss.aux_sequence.counts=chosen"] if bias else []
    alpha = "balancing.loss.aux_sequence.alpha=0.3"
    before = 0.3 * torch.stack([sequence_loss(routing, 4) for routing in batch.routings]).sum()
    assert torch.equal(dsv3(alpha, *counts).loss(batch), before)  # type: ignore[arg-type]
    old = DeepSeekV3(rate=0.01, freeze_at=0.9, alpha=0.3)
    assert torch.equal(old.loss(batch), before)  # type: ignore[arg-type]
    for progress in (0.0, 0.95):
        assert torch.equal(dsv3().bias_update(LOADS, progress), old.bias_update(LOADS, progress))
        assert torch.equal(
            dsv3().bias_update(LOADS, progress), LossFree(0.01, "freeze", 0.9).bias_update(LOADS, progress)
        )
    if bias:
        assert not torch.equal(dsv3(alpha).loss(batch), before)  # type: ignore[arg-type]


def test_unbiased_counts_are_equation_18s() -> None:
    """Top 1 of s alone although the bias sends every token to expert 1: f = (2, 0) and (1, 1) of two sequences.

    P is (0.75, 0.25) and (0.5, 0.5). Seen to fail with the experts that were used: f = (0, 2) in both.
    """
    one = routing_of([[0.75, 0.25], [0.6, 0.2], [0.8, 0.4], [0.3, 0.9]], 1, bias=[0.0, 2.0])
    assert one.load.tolist() == [0, 4]
    batch = micro_batch(one, sequences=2)
    sequence = AuxiliaryLoss(0.5, "sequence", "unbiased").loss(batch)
    second = (0.4 / 1.2 * 0 + (0.8 / 1.2 + 0.3 / 1.2) / 2) + (0.4 / 1.2 + 0.9 / 1.2) / 2  # f = (1, 1)
    torch.testing.assert_close(sequence, torch.tensor(0.5 * (2 * 0.75 + second) / 2))
    share = one.scores / one.scores.sum(dim=1, keepdim=True)
    micro = AuxiliaryLoss(0.5, "micro", "unbiased").loss(batch)
    torch.testing.assert_close(micro, 0.5 * (torch.tensor([1.5, 0.5]) * share.mean(dim=0)).sum())


def test_the_loss_looks_at_each_sequence_alone() -> None:
    """Two sequences that go to one expert each are even together. Seen to fail with the loss over the micro-batch."""
    apart = routing_of([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], 1)
    rule = dsv3("balancing.loss.aux_sequence.alpha=1.0")
    assert rule.loss(micro_batch(apart, sequences=2)).item() == pytest.approx(1.8)  # type: ignore[union-attr]
    assert rule.loss(micro_batch(apart, sequences=1)).item() == pytest.approx(1.0)  # type: ignore[union-attr]
