"""Sampling against distributions computed by hand, continuation against a loop of argmax."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from s15erav3.model.generate import Sampling, continue_sequence
from s15erav3.model.transformer import Transformer
from tests.model.reference import random_model, tiny_config, token_ids

PROBABILITIES = [0.1, 0.5, 0.15, 0.25]  # token 1 is the likeliest, then 3, 2, 0


def model_of(seed: int = 0) -> Transformer:
    # With a tied head a random model repeats its last token.
    return random_model(tiny_config(num_layers=2, tie_word_embeddings=False), seed)


def shares(sampling: Sampling, draws: int = 3000, seen: tuple[int, ...] = (0,)) -> list[float]:
    logits = torch.tensor(PROBABILITIES).log()
    generator = torch.Generator().manual_seed(0)
    found = Counter(sampling.draw(logits.clone(), torch.tensor(seen), generator) for _ in range(draws))
    return [found[token] / draws for token in range(len(PROBABILITIES))]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, PROBABILITIES),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 0.5 / 0.75, 0, 0.25 / 0.75]),
        ({"top_k": 3}, [0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9]),
        ({"top_k": 99}, PROBABILITIES),
        ({"top_p": 0.01}, [0, 1, 0, 0]),  # the likeliest always stays
        ({"top_p": 0.49}, [0, 1, 0, 0]),
        ({"top_p": 0.51}, [0, 0.5 / 0.75, 0, 0.25 / 0.75]),  # the one that crosses the bound stays
        ({"top_p": 0.76}, [0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9]),
        ({"top_p": 0.95}, PROBABILITIES),
        ({"top_k": 3, "top_p": 0.51}, [0, 0.5 / 0.75, 0, 0.25 / 0.75]),
        ({"temperature": 0.5}, [p**2 / sum(q**2 for q in PROBABILITIES) for p in PROBABILITIES]),
        ({"temperature": 2.0}, [p**0.5 / sum(q**0.5 for q in PROBABILITIES) for p in PROBABILITIES]),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_computed_by_hand(settings: dict[str, float], expected: list[float]) -> None:
    """Catches ids that stay sorted, a nucleus one token short, and probabilities that are not renormalised."""
    got = shares(Sampling(**{"temperature": 1.0, "top_p": 1.0, **settings}))
    for token, (share, p) in enumerate(zip(got, expected, strict=True)):
        assert (share == 0) == (p == 0), token
        assert abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / 3000) + 1e-9, token


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    """Catches a penalty that rewards tokens of negative logit, or that counts repeats twice."""
    logits = torch.tensor([2.0, -1.0, 3.0, -0.5])
    seen = torch.tensor([0, 0, 0, 1])  # penalised: 2 / 1.5 and -1 * 1.5
    penalised = torch.softmax(torch.tensor([2.0 / 1.5, -1.5, 3.0, -0.5]), 0)
    sampling, generator = Sampling(1.0, 0, 1.0, 1.5), torch.Generator().manual_seed(0)
    found = Counter(sampling.draw(logits.clone(), seen, generator) for _ in range(4000))
    for token, p in enumerate(penalised.tolist()):
        assert abs(found[token] / 4000 - p) < 4.5 * math.sqrt(p * (1 - p) / 4000), token

    greedy = Sampling(0.0, repetition_penalty=1.6)
    assert greedy.draw(torch.tensor([2.0, 3.0, 2.0]), torch.tensor([1]), generator) == 0
    assert greedy.draw(torch.tensor([2.0, 3.0, 2.0]), torch.tensor([2]), generator) == 1


def test_drawing_leaves_the_logits_alone() -> None:
    """Whoever draws twice from the same logits would penalise twice."""
    logits = torch.tensor([2.0, 1.0, 0.5])
    Sampling(0.0, repetition_penalty=2.0).draw(logits, torch.tensor([0]), torch.Generator())
    assert torch.equal(logits, torch.tensor([2.0, 1.0, 0.5]))


def test_ties_and_extreme_logits_are_survived() -> None:
    """Catches nan from masked or very large logits."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([1e4, -1e4, 1e4, -float("inf")])
    assert {Sampling(1.0, 0, 1.0).draw(logits.clone(), torch.tensor([0]), generator) for _ in range(40)} == {0, 2}
    assert Sampling(1e-6, 0, 1.0).draw(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0]), generator) == 1
    assert Sampling(1.0).draw(torch.tensor([1.0, 2.0]).bfloat16(), torch.tensor([0]), generator) in (0, 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], said: str) -> None:
    """Out of range, they would fail deep in multinomial or silently do nothing."""
    with pytest.raises(ValueError, match=said):
        Sampling(**settings)


def test_a_fractional_top_k_is_refused() -> None:
    """``sample top_k=1.5`` is a user's mistake, not a bug to show a traceback for."""
    with pytest.raises((ValueError, TypeError)):
        Sampling(top_k=1.5)  # type: ignore[arg-type]


def run(model: Transformer, ids: list[int], sampling: Sampling, n: int = 12, seed: int = 0, **more: int) -> list[int]:
    settings = {"context": 64, **more}
    return list(continue_sequence(model, ids, max_new_tokens=n, sampling=sampling, seed=seed, **settings))


def test_greedy_is_a_loop_of_argmax() -> None:
    """Catches the state of another position than the last, and a continuation that forgets what it wrote."""
    model, ids = model_of(), [3, 14, 15, 9]
    expected = list(ids)
    for _ in range(12):
        hidden = model(torch.tensor([expected])).hidden
        expected.append(int((hidden[0, -1] @ model.lm_head.weight.T).argmax()))
    assert run(model, ids, Sampling(0.0)) == expected[4:]
    assert len(set(expected[4:])) > 2


def test_the_context_is_the_last_tokens() -> None:
    """Catches the first tokens kept instead, or a sequence longer than the model was trained on."""
    model, lengths = model_of(), []
    model.register_forward_hook(lambda _m, args, _o: lengths.append(args[0].shape))
    ids = token_ids(model.config, 1, 20)[0].tolist()
    got = run(model, ids, Sampling(0.0), n=6, context=8)
    assert lengths == [(1, 8)] * 6
    assert got == run(model, ids[-8:], Sampling(0.0), n=6, context=8)
    assert got != run(model, ids, Sampling(0.0), n=6, context=20)


def test_a_seed_gives_the_same_text_and_another_seed_another() -> None:
    """Catches randomness from torch's global generator."""
    model, sampling = model_of(), Sampling(1.5, 0, 1.0)
    torch.manual_seed(1)
    first = run(model, [1, 2], sampling, seed=7)
    torch.manual_seed(2)
    assert run(model, [1, 2], sampling, seed=7) == first
    assert run(model, [1, 2], sampling, seed=8) != first


def test_nothing_global_is_touched() -> None:
    """Samples drawn during training must not change what the training does next."""
    model = model_of().train()
    model.layers[0].eval()  # frozen, say
    torch.manual_seed(5)
    before, modes = torch.get_rng_state(), []
    model.register_forward_hook(lambda m, _a, _o: modes.append((m.training, torch.is_grad_enabled())))
    assert run(model, [1, 2], Sampling(1.0), n=3)
    assert modes == [(False, False)] * 3
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


def test_an_evaluated_model_stays_in_evaluation_mode() -> None:
    """Catches ``model.train()`` at the end whatever the mode was."""
    model = model_of().eval()
    run(model, [1, 2], Sampling(1.0), n=2)
    assert not model.training


def test_the_mode_is_restored_when_the_caller_stops_early_or_the_model_fails() -> None:
    """Catches a mode that is only restored after the last token."""
    model = model_of().train()
    stream = continue_sequence(model, [1], max_new_tokens=9, sampling=Sampling(1.0), seed=0, context=8)
    next(stream)
    assert torch.is_grad_enabled()
    stream.close()
    assert model.training
    with pytest.raises(IndexError):
        run(model, [1000], Sampling(1.0))
    assert model.training


def test_the_stop_token_ends_the_text_and_is_not_part_of_it() -> None:
    """Catches an end-of-text mark that is printed."""
    model = model_of()
    tokens = run(model, [3, 14], Sampling(0.0))
    end = next(i for i in range(1, 12) if tokens[i] not in tokens[:i])
    assert run(model, [3, 14], Sampling(0.0), stop=tokens[end]) == tokens[:end]
    assert run(model, [3, 14], Sampling(0.0), n=0) == []


def test_an_empty_sequence_is_refused() -> None:
    """Catches an index error from an empty tensor."""
    with pytest.raises(ValueError, match="at least one token"):
        run(model_of(), [], Sampling())
