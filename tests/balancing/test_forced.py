"""Forced routing: the loads that were asked for.

Docstrings name mutations that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from s15erav3.balancing import Forced
from s15erav3.errors import UserError
from s15erav3.model import Router, Routing
from tests.balancing.parts import skewed


def routed(load: str, experts: int = 6, k: int = 2, exponent: float = 1.0) -> tuple[Routing, Router, torch.Tensor]:
    router, x = skewed(experts, k, seed=0)
    Forced(load, exponent).attach([router])  # type: ignore[arg-type]
    return router(x), router, x


@pytest.mark.parametrize(("experts", "k"), [(6, 2), (8, 3), (5, 5), (4, 1)])
def test_even_loads(experts: int, k: int) -> None:
    """Token t takes (t K + j) mod E. Seen to fail with t in place of t K."""
    routing = routed("even", experts, k)[0]
    for t, row in enumerate(routing.experts.tolist()):
        assert set(row) == {(t * k + j) % experts for j in range(k)}
    assert routing.load.max() - routing.load.min() <= 1 and routing.load.sum() == 512 * k


def test_a_single_load() -> None:
    assert routed("single")[0].load.tolist() == [512, 512, 0, 0, 0, 0]


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_zipf_loads(exponent: float) -> None:
    """Drawn without replacement, here by torch.multinomial. Seen to fail with the exponent left out, with the
    sign of the noise turned, and with uniform noise."""
    torch.manual_seed(0)
    loads = torch.stack([routed("zipf", exponent=exponent)[0].load for _ in range(20)]).sum(dim=0)
    p = torch.arange(1.0, 7.0) ** -exponent
    drawn = Counter(p.expand(20 * 512, 6).multinomial(2).flatten().tolist())
    for i, load in enumerate(loads.tolist()):
        assert load == pytest.approx(drawn[i], abs=4 * drawn[i] ** 0.5 * 2**0.5)


def test_weights_are_those_of_the_affinities_and_evaluation_is_free() -> None:
    """Seen to fail with a preference that applies in evaluation."""
    routing, router, x = routed("even")
    assert torch.equal(routing.weights, router.weigh(routing.scores, routing.experts))
    free = router.eval()(x)
    assert torch.equal(free.experts, router.select(free.scores, router.bias))


def test_bad_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"balancing\.load=odd is unknown; choose one of even, zipf, single"):
        Forced("odd")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"balancing\.exponent=-1"):
        Forced("zipf", -1.0)
