"""How tokens are drawn: shares of many draws against probabilities computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s15erav3.model.sampling import Sampling

PROBABILITIES = [0.1, 0.5, 0.15, 0.25]  # token 1 is the likeliest, then 3, 2, 0
FLAT = [0.1, 0.4, 0.2, 0.3]
DRAWS = 4000
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PLAIN: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def shares(sampling: Sampling, logits: Tensor, seen: Tensor | None = None) -> Tensor:
    """Of each token among many draws by one generator."""
    (generator,) = generators(0)
    rows = logits.repeat(DRAWS, 1)
    seen = None if seen is None else seen.repeat(DRAWS, 1)
    return sampling.draw(rows, seen, [generator] * DRAWS).bincount(minlength=len(logits)) / DRAWS


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_deterministic_algorithms_change_no_draw(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They refuse a GPU's cumulative sum, so it is taken on the host."""
    moved, cpu = [], Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: moved.append(self.shape) or cpu(self))
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0)).to(place)
    want = Sampling().draw(logits, None, generators(*range(8)))
    assert not moved
    torch.use_deterministic_algorithms(True)
    try:
        got = Sampling().draw(logits, None, generators(*range(8)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert moved and torch.equal(got, want) and got.device == logits.device


def assert_drawn(got: Tensor, expected: list[float] | Tensor) -> None:
    """Pearson's statistic within what one of ten thousand fair experiments exceeds; impossible tokens never."""
    p = torch.as_tensor(expected, dtype=torch.float64)
    possible = p > 0
    assert torch.equal(got > 0, possible), got
    p, got = p[possible], got[possible].double()
    statistic, freedom = float(DRAWS * ((got - p) ** 2 / p).sum()), max(1, len(p) - 1)
    # Wilson and Hilferty's approximation of the quantile of chi-square.
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3, (got, p)


@pytest.mark.parametrize(
    ("values", "settings_", "expected"),
    [
        (PROBABILITIES, {}, PROBABILITIES),
        (PROBABILITIES, {"temperature": 0.5}, [p**2 / sum(q**2 for q in PROBABILITIES) for p in PROBABILITIES]),
        (PROBABILITIES, {"temperature": 2.0}, [p**0.5 / sum(q**0.5 for q in PROBABILITIES) for p in PROBABILITIES]),
        (PROBABILITIES, {"temperature": 0.0}, [0, 1, 0, 0]),
        (PROBABILITIES, {"top_k": 1}, [0, 1, 0, 0]),
        (PROBABILITIES, {"top_k": 2}, [0, 0.5 / 0.75, 0, 0.25 / 0.75]),
        (PROBABILITIES, {"top_k": 3}, [0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9]),
        (PROBABILITIES, {"top_k": 99}, PROBABILITIES),
        (PROBABILITIES, {"top_p": 0.01}, [0, 1, 0, 0]),  # the likeliest always stays
        (PROBABILITIES, {"top_p": 0.49}, [0, 1, 0, 0]),
        (PROBABILITIES, {"top_p": 0.51}, [0, 0.5 / 0.75, 0, 0.25 / 0.75]),  # the one that crosses the bound stays
        (PROBABILITIES, {"top_p": 0.76}, [0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9]),
        (PROBABILITIES, {"top_p": 0.95}, PROBABILITIES),
        (PROBABILITIES, {"min_p": 1.0}, [0, 1, 0, 0]),
        (PROBABILITIES, {"min_p": 0.51}, [0, 1, 0, 0]),  # of the likeliest's 0.5, not of 1
        (PROBABILITIES, {"min_p": 0.49}, [0, 0.5 / 0.75, 0, 0.25 / 0.75]),
        (PROBABILITIES, {"min_p": 0.19}, PROBABILITIES),
        # Squared, 0.25 is a quarter as likely as 0.5: narrowings hold after the temperature.
        (PROBABILITIES, {"temperature": 0.5, "min_p": 0.3}, [0, 1, 0, 0]),
        (PROBABILITIES, {"temperature": 0.5, "top_p": 0.7}, [0, 1, 0, 0]),
        # 0.56 of the two likeliest's 0.7 is the first alone; 0.56 of all is both.
        (FLAT, {"top_k": 2, "top_p": 0.56}, [0, 1, 0, 0]),
        (FLAT, {"top_k": 2, "top_p": 0.58}, [0, 0.4 / 0.7, 0, 0.3 / 0.7]),
        # 0.55 of all are two tokens; were unlikely ones dropped by min_p before, it would be one.
        (FLAT, {"top_p": 0.55, "min_p": 0.6}, [0, 0.4 / 0.7, 0, 0.3 / 0.7]),
        (FLAT, {"top_p": 0.95, "min_p": 0.6}, [0, 0.4 / 0.7, 0, 0.3 / 0.7]),
        (FLAT, {"top_k": 3, "top_p": 0.76, "min_p": 0.6}, [0, 0.4 / 0.7, 0, 0.3 / 0.7]),
        (FLAT, {"top_k": 3, "top_p": 0.79, "min_p": 0.1}, [0, 0.4 / 0.9, 0.2 / 0.9, 0.3 / 0.9]),
    ],
)
def test_tokens_are_drawn_as_computed_by_hand(
    values: list[float], settings_: dict[str, Any], expected: list[float]
) -> None:
    """Catches ids that stay sorted, a nucleus one token short, other orders of narrowing, a bound not of the rest."""
    assert_drawn(shares(Sampling(**PLAIN | settings_), torch.tensor(values).log()), expected)


@settings(max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 7]),
    top_p=st.sampled_from([0.2, 0.65, 0.97, 1.0]),
    min_p=st.sampled_from([0.0, 0.07, 0.4]),
)
def test_tokens_are_drawn_as_a_loop_says(seed: int, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Catches settings that are right by themselves only."""
    logits = 2 * torch.randn(9, generator=torch.Generator().manual_seed(seed))
    p = [float(x) for x in (logits.double() / temperature).softmax(dim=0)]
    left = sorted(range(9), key=lambda token: -p[token])[: top_k or 9]
    mass, nucleus = sum(p[token] for token in left), list[int]()
    for token in left:
        if top_p == 1 or sum(p[t] for t in nucleus) < top_p * mass:
            nucleus.append(token)
    left = [token for token in nucleus if p[token] >= min_p * max(p)]
    expected = [p[token] / sum(p[t] for t in left) if token in left else 0.0 for token in range(9)]
    got = shares(Sampling(temperature, top_k, top_p, min_p), logits)
    assert all(expected[token] for token in got.nonzero())
    common = [token for token in left if expected[token] * DRAWS > 5]  # chi-square is for no less
    weight = sum(expected[token] for token in common)
    if weight > 0.99:
        assert_drawn(got[common] / got[common].sum(), [expected[token] / weight for token in common])


@settings(max_examples=40, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([1e-6, 0.5, 1.0, 50.0]),
        top_k=st.integers(0, 12),
        top_p=st.floats(0.01, 1.0),
        min_p=st.floats(0.0, 1.0),
    ),
    excluded=st.sets(st.integers(0, 9), max_size=9),
    tied=st.booleans(),
)
def test_an_excluded_token_is_never_drawn(seed: int, sampling: Sampling, excluded: set[int], tied: bool) -> None:
    """Catches bounds off by one, more than k tokens among equals, and ids beyond the vocabulary."""
    logits = torch.randn(10, generator=torch.Generator().manual_seed(seed))
    logits = (logits > 0).float() if tied else logits
    logits[list(excluded)] = -float("inf")
    drawn = sampling.draw(logits.repeat(300, 1), None, generators(seed) * 300).unique()
    p = (logits / sampling.temperature).softmax(dim=0)
    assert not excluded & set(drawn.tolist())
    assert len(drawn) <= (sampling.top_k or 10)
    assert (p[drawn] >= sampling.min_p * p.max() * (1 - 1e-5)).all()
    others = torch.tensor([float(p[p > p[token]].sum()) for token in drawn])
    assert (others < sampling.top_p + 1e-5).all()  # with ties, more may come before, never less


class Fixed:
    """In place of ``torch.rand``: always this."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, *_shape: int, **_settings: Any) -> Tensor:
        return torch.tensor([self.value], dtype=torch.float64)


@pytest.mark.parametrize("settings_", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.01}])
@pytest.mark.parametrize(("draw", "expected"), [(0.0, 0), (1 - 2**-53, 2)])
def test_the_ends_of_the_unit_interval_hit_possible_tokens(
    settings_: dict[str, Any], draw: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an impossible first token at 0, and one beyond the last at almost 1: once in millions of draws."""
    monkeypatch.setattr(torch, "rand", Fixed(draw))
    logits = torch.tensor([[-float("inf"), 0.3, 0.2, 0.1, -float("inf")]])
    assert Sampling(**PLAIN | settings_).draw(logits, None, generators(0)).item() == expected + 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens(temperature: float) -> None:
    """Catches a penalty that rewards tokens of negative logit, that hits unseen ones or another row's."""
    logits = torch.tensor([2.0, -1.0, 1.9, -0.5])
    seen = torch.tensor([True, True, False, False])
    penalised = torch.tensor([2.0 / 1.5, -1.5, 1.9, -0.5])
    sampling = Sampling(temperature, 0, 1.0, repetition_penalty=1.5)
    expected = penalised.softmax(dim=0) if temperature else torch.tensor([0.0, 0, 1, 0])
    assert_drawn(shares(sampling, logits, seen), expected)
    rows = Sampling(0.0, repetition_penalty=1.5).draw(
        logits.repeat(3, 1), torch.stack((seen, ~seen, seen)), generators(0, 0, 0)
    )
    assert rows.tolist() == [2, 0, 2]


def test_the_penalty_comes_before_narrowing() -> None:
    """Catches a token that top_k keeps although it was pushed back, and the other way round."""
    logits, seen = torch.tensor([2.0, 1.5, 1.0]), torch.tensor([True, False, False])
    got = shares(Sampling(1.0, 2, 1.0, repetition_penalty=4.0), logits, seen)
    assert_drawn(got, torch.tensor([-float("inf"), 1.5, 1.0]).softmax(dim=0))


@settings(max_examples=25, derandomize=True)
@given(
    seeds=st.lists(st.integers(0, 100), min_size=2, max_size=6),
    settings_=st.sampled_from([{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"repetition_penalty": 1.3}]),
)
def test_a_row_depends_on_its_own_generator_alone(seeds: list[int], settings_: dict[str, Any]) -> None:
    """Catches draws for the whole batch from one generator, and probabilities that mix rows."""
    sampling = Sampling(**PLAIN | settings_)
    source = torch.Generator().manual_seed(1)
    logits = torch.randn(4, len(seeds), 17, generator=source)
    seen = torch.rand(len(seeds), 17, generator=source) < 0.3
    together, alone = generators(*seeds), generators(*seeds)
    for step in logits:
        got = sampling.draw(step, seen, together).tolist()
        for row, generator in enumerate(alone):
            assert got[row] == sampling.draw(step[row : row + 1], seen[row : row + 1], [generator]).item()


def test_rows_of_other_seeds_differ() -> None:
    """Catches one draw for all rows."""
    drawn = Sampling(**PLAIN).draw(torch.zeros(20, 1000), None, generators(*range(20)))
    assert len(drawn.unique()) > 15


@pytest.mark.parametrize("settings_", [{"temperature": 0.0}, {}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}])
def test_drawing_leaves_the_logits_and_the_global_generator_alone(settings_: dict[str, Any]) -> None:
    """Whoever draws twice from the same logits would penalise twice; training must not notice samples."""
    logits, seen = torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([[True, False, False]])
    before = torch.get_rng_state()
    Sampling(**PLAIN | settings_, repetition_penalty=2.0).draw(logits, seen, generators(0))
    assert torch.equal(logits, torch.tensor([[2.0, 1.0, 0.5]]))
    assert seen.tolist() == [[True, False, False]]
    assert torch.equal(torch.get_rng_state(), before)


def test_ties_and_extreme_logits_are_survived() -> None:
    """Catches nan from masked or very large logits, and sums of bf16."""
    logits = torch.tensor([1e4, -1e4, 1e4, -float("inf")])
    assert_drawn(shares(Sampling(**PLAIN), logits), [0.5, 0, 0.5, 0])
    assert Sampling(1e-6, 0, 1.0).draw(torch.tensor([[1.0, 3.0, 2.0]]), None, generators(0)).tolist() == [1]
    assert_drawn(shares(Sampling(**PLAIN), torch.zeros(200).bfloat16()), [1 / 200] * 200)


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"min_p": 1.1}, "min_p=1.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"repetition_penalty": -1.0}, "repetition_penalty=-1.0"),
    ],
)
def test_settings_out_of_range_are_named(settings_: dict[str, Any], said: str) -> None:
    """Out of range, they would silently do nothing, or nonsense."""
    with pytest.raises(ValueError, match=said):
        Sampling(**settings_)
