"""Mutual information against hand values and chance, specialists against planted ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from s15erav3.analysis.collect import Counts, Routed
from s15erav3.analysis.specialisation import mutual_information, specialists


def routed(**domains: Tensor) -> Routed:
    """Layers 3 and 4 of four experts; loads and the rest play no part."""
    counts = {
        name: Counts([f"{name}{v}" for v in range(slots.shape[1])], slots, slots[0].sum(-1))
        for name, slots in domains.items()
    }
    nothing = torch.zeros(2, 4, dtype=torch.int64)
    return Routed(
        [3, 4], 1, nothing, nothing.float(), nothing.float()[:0], torch.zeros(2, 4, 4, dtype=torch.int64), counts, {}
    )


def test_mutual_information_by_hand() -> None:
    """One layer each: an expert per value, no relation, and a mixture. Catches nats for bits, a sum over layers."""
    counts = torch.tensor([[[8, 0], [0, 8]], [[4, 4], [4, 4]], [[6, 2], [2, 6]]])
    found = mutual_information(counts)
    mixed = 1 + 0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)
    torch.testing.assert_close(found.plug_in, torch.tensor([1.0, 0.0, mixed], dtype=torch.float64))
    # Miller and Madow: + (m_expert - 1 + m_value - 1 - (m_joint - 1)) / 2n nats, cells that occur being 2, 4 and 4.
    correction = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64) / (2 * 16) / math.log(2)
    torch.testing.assert_close(found.corrected, found.plug_in + correction)
    torch.testing.assert_close(found.share, found.corrected)  # the value has one bit


def test_share_is_of_the_entropy_of_the_value() -> None:
    """Catches the expert's entropy below the line: two experts, four values, and the expert says half."""
    found = mutual_information(torch.tensor([[[1000, 0], [1000, 0], [0, 1000], [0, 1000]]]))
    assert found.share.item() == pytest.approx(0.5, abs=1e-3)


def test_one_value_has_nothing_to_tell() -> None:
    """Catches 0 / 0, and values and experts that never occur."""
    found = mutual_information(torch.tensor([[[5, 3, 0], [0, 0, 0]]]))
    assert found.plug_in.item() == pytest.approx(0, abs=1e-12)
    assert found.corrected.item() == pytest.approx(0, abs=1e-12)
    assert found.share.item() == 0


def test_the_correction_removes_what_chance_shows() -> None:
    """Experts drawn without regard to 500 values: the plug-in value is far from 0, the corrected one is not. Catches
    a correction of the wrong sign, or one that counts cells that cannot occur."""
    generator = torch.Generator().manual_seed(0)
    slots = 20_000
    cell = torch.randint(500, (slots,), generator=generator) * 8 + torch.randint(8, (slots,), generator=generator)
    found = mutual_information(torch.bincount(cell, minlength=4000).view(1, 500, 8))
    assert found.plug_in.item() > 0.1
    assert abs(found.corrected.item()) < 0.01


def test_specialists_are_found_where_they_are() -> None:
    """Catches transposed indices, positions in place of layers' numbers, and weak domains in the list."""
    phase = torch.full((2, 3, 4), 1000)
    phase[1, 2] = torch.tensor([500, 2500, 500, 500])
    even = torch.full((2, 2, 4), 1000)
    (only,) = specialists(routed(phase=phase, even=even))
    assert only[:4] == ("phase", "phase2", 4, 1) and only.assignments == 2500
    assert only.times == pytest.approx(2500 / 4000 / (4500 / 12000))
    assert str(only) == "layer 04, E01: 1.7 times its share on phase 'phase2' (2,500 assignments)"


def test_rare_values_have_no_specialists() -> None:
    """A word that occurs five times always has an expert with many times its share of it."""
    word = torch.full((2, 3, 4), 1000)
    word[0, 1] = torch.tensor([5, 0, 0, 0])
    assert list(specialists(routed(word=word))) == []
    assert [s.value for s in specialists(routed(word=word), least=1)] == ["word1"]


def test_specialists_come_strongest_first() -> None:
    """Catches an ascending list."""
    weak, strong = torch.full((2, 2, 4), 1000), torch.full((2, 2, 4), 1000)
    weak[0, 0, 2] = 2000
    strong[0, 0, 2] = 9000
    found = list(specialists(routed(weak=weak, strong=strong)))
    assert [s.domain for s in found] == ["strong", "weak"]
    assert found[0].times > found[1].times


def test_share_of_expert_is_comparable_under_collapse() -> None:
    """Expert 1 takes a sixteenth of the slots, all of one value of four: I = H(expert) - 3/4 * 0 - 1/4 * H(1/4)."""
    counts = torch.tensor([[[40_000, 0], [40_000, 0], [40_000, 0], [30_000, 10_000]]])
    expert, within = (-(p * math.log2(p) + (1 - p) * math.log2(1 - p)) for p in (1 / 16, 1 / 4))
    found = mutual_information(counts)
    assert found.share_of_expert.item() == pytest.approx(1 - within / 4 / expert, abs=1e-3)
    assert found.share.item() == pytest.approx((expert - within / 4) / 2, abs=1e-3)
