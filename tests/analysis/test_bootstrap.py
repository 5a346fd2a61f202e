"""Resampled documents against a loop over single draws, and the coverage of the interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from s15erav3.analysis import bootstrap
from s15erav3.analysis.bootstrap import interval, resampled


def test_draws_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches counts of one draw added to another, measurements crosswise, and blocks that repeat draws."""
    monkeypatch.setattr(bootstrap, "ROOM", 7 * 3)  # three draws at a time
    source = np.random.default_rng(5)
    nll, size = source.normal(size=(7, 2)), source.integers(1, 9, 7).astype(float)
    draw, expected = np.random.default_rng(0), []
    for _ in range(20):
        at = draw.integers(7, size=7)
        expected.append(nll[at].sum(axis=0) / size[at].sum() / math.log(2))
    np.testing.assert_allclose(resampled(nll, size, 20), expected)
    each = np.stack([size, 2 * size], axis=1)
    np.testing.assert_allclose(resampled(nll, each, 20), np.array(expected) / [1, 2])


def test_a_draw_without_the_value_is_no_number() -> None:
    """A value in one document of two is absent from a quarter of the draws; 0 would pull the interval down."""
    size = np.array([[4.0], [0.0]])
    found = resampled(np.array([[2.0], [0.0]]), size, 400)
    assert 0.15 < np.isnan(found).mean() < 0.35
    assert np.allclose(found[~np.isnan(found)], 2 / 4 / math.log(2))


@pytest.mark.parametrize("documents", [4, 18])
def test_the_interval_holds_the_true_difference_in_95_of_100_texts(documents: int) -> None:
    """Fails with the normal quantile at four documents: 86 %."""
    source, hits, trials = np.random.default_rng(3), 0, 400
    for _ in range(trials):
        size = source.integers(800, 1200, documents).astype(float)
        nll = 0.1 * size[:, None] + source.normal(0, 30, (documents, 1))
        found = interval(nll, size)
        hits += abs(found.mean[0] - 0.1 / math.log(2)) <= found.half[0]
    assert 0.92 <= hits / trials <= 0.98


def test_the_interval_is_students_for_documents_of_one_size() -> None:
    """Fails without D / (D - 1): a tenth narrower."""
    nll = np.random.default_rng(4).normal(size=(5, 1))
    expected = 2.776 * nll.std(ddof=1) / math.sqrt(5) / 3 / math.log(2)
    assert interval(nll, np.full(5, 3.0)).half[0] == pytest.approx(expected, rel=0.05)


def test_one_document_shows_no_scatter() -> None:
    """An interval of width 0 would call every change clear."""
    found = interval(np.array([[3.0]]), np.array([2.0]))
    assert found.mean[0] == pytest.approx(1.5 / math.log(2)) and np.isnan(found.half[0])
