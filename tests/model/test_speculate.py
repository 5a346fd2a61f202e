"""Speculative decoding against greedy decoding, and its drafts against prediction blocks that read everything anew."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from s15erav3.model.experts import RoutedExperts
from s15erav3.model.generate import Generated, generate
from s15erav3.model.kv_cache import Step
from s15erav3.model.norm import RMSNorm
from s15erav3.model.sampling import Sampling
from s15erav3.model.speculate import Drafter, generate_speculatively
from s15erav3.model.transformer import Transformer
from tests.model.reference import random_model, tiny_config, token_ids

Drafted = list[tuple[list[int], list[int]]]
"""Known tokens and drafts of each step."""


def model_of(depth: int, seed: int = 0, **values: Any) -> Transformer:
    settings_ = {"num_layers": 2, "tie_word_embeddings": False, "num_nextn_predict_layers": depth, **values}
    return random_model(tiny_config(**settings_), seed).double()


@torch.no_grad()
def guessable(depth: int, noise: float, seed: int = 0) -> Transformer:
    """A model that writes the token with the next number, whose blocks do so too, as far as noise lets them."""
    model = model_of(depth, seed)
    for module in model.modules():
        if isinstance(module, RMSNorm | nn.RMSNorm):
            module.weight.fill_(1)
        elif isinstance(module, RoutedExperts):
            module.down_proj.mul_(noise)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "shared_experts.down_proj.weight", "mlp.down_proj.weight")):
            parameter.mul_(noise)
        elif name.endswith("eh_proj.weight"):  # the embedding, not the state
            parameter.mul_(noise).add_(torch.eye(*parameter.shape))
    nn.functional.normalize(model.embed_tokens.weight, out=model.embed_tokens.weight).mul_(32**0.5)
    model.lm_head.weight.copy_(model.embed_tokens.weight.roll(1, 0))
    return model


def speculated(
    model: Transformer, prompt: list[int], n: int, context: int = 64, stop: int | None = None
) -> tuple[list[int], Generated, Drafted]:
    told, drafted = list[int](), list[tuple[list[int], list[int]]]()

    class Recorded(Drafter):
        def draft(self, tokens: Any, hidden: Tensor) -> list[int]:
            drafts = super().draft(tokens, hidden)
            drafted.append((list(tokens), drafts))
            return drafts

    def emit(sequence: int, token: int) -> bool:
        assert sequence == 0
        told.append(token)
        return len(told) <= n  # one too many would be seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s15erav3.model.speculate.Drafter", Recorded)
        took = generate_speculatively(model, prompt, emit, max_new_tokens=n, context=context, stop=stop)
    return told, took, drafted


def greedy(model: Transformer, prompt: list[int], n: int, context: int = 64, stop: int | None = None) -> list[int]:
    told = list[int]()

    def emit(_sequence: int, token: int) -> bool:
        told.append(token)
        return True

    settings_: dict[str, Any] = {"sampling": Sampling(0.0), "seed": 0, "context": context, "stop": stop}
    generate(model, [prompt], emit, max_new_tokens=n, **settings_)
    return told


@torch.no_grad()
def drafts_read_again(model: Transformer, tokens: list[int], context: int) -> list[int]:
    """Those of every block over the whole text, of which a token sees ``context``; nothing is remembered."""
    length, width = len(tokens) - 1, model.config.kv_lora_rank + model.config.qk_rope_head_dim
    distance = torch.arange(length)[:, None] - torch.arange(length)
    mask = ((distance >= 0) & (distance < context))[None, None]
    unread = torch.zeros(model.config.num_layers, 1, length, width, dtype=torch.float64)
    step = Step(torch.arange(length), unread, torch.arange(length), mask, True)
    states, drafts = model(torch.tensor([tokens[:-1]]), step).hidden, list[int]()
    for k in range(1, len(model.mtp) + 1):
        states, _ = model.predict_ahead(k, states, torch.tensor([[*tokens, *drafts][k:]]), step)
        drafts.append(int(model.logits(states[0, -1]).argmax()))
    return drafts


def accepted_drafts(drafted: Drafted, text: list[int], start: int) -> int:
    """How many of the drafts were the text, each step's up to its first that was not."""
    total = 0
    for tokens, drafts in drafted:
        for draft, token in zip(drafts, text[len(tokens) - start :], strict=False):
            if draft != token:
                break
            total += 1
    return total


def assert_consistent(took: Generated, drafted: Drafted, depth: int) -> None:
    """A step tells its accepted drafts and a token of the model; the last one may tell less of them."""
    assert took.steps == len(drafted)
    assert took.drafted == depth * took.steps
    assert 0 <= took.accepted <= took.drafted
    told_at_most = 1 + took.steps + took.accepted
    assert told_at_most - depth - 1 <= took.tokens <= told_at_most


@settings(max_examples=30, derandomize=True)
@given(
    depth=st.integers(1, 3),
    noise=st.sampled_from([None, 1.5, 1.2, 1.0]),
    length=st.integers(1, 8),
    context=st.sampled_from([1, 2, 5, 9, 64]),
    n=st.integers(1, 20),
    seed=st.integers(0, 100),
)
def test_speculation_is_greedy_decoding(
    depth: int, noise: float | None, length: int, context: int, n: int, seed: int
) -> None:
    """Catches drafts accepted or seen that the model would not have chosen, tokens lost from a full ring, and blocks
    that read states, tokens or positions of other steps: right texts then merely come slowly.
    """
    model = model_of(depth, seed) if noise is None else guessable(depth, noise, seed)
    prompt = token_ids(model.config, 1, length, seed=seed)[0].tolist()
    told, took, drafted = speculated(model, prompt, n, context)
    text = greedy(model, prompt, n + depth + 1, context)
    assert told == text[:n]
    assert took.tokens == n
    for tokens, drafts in drafted:
        assert tokens == prompt[-context:] + text[: len(tokens) - len(prompt[-context:])]
        assert drafts == drafts_read_again(model, tokens, context)
    assert took.accepted == accepted_drafts(drafted, text, len(prompt[-context:]))
    assert_consistent(took, drafted, depth)


def test_drafts_are_what_training_teaches() -> None:
    """Catches a chain that was rebuilt here and there alike, but not as the loss sees it."""
    model = model_of(3)
    _, _, drafted = speculated(model, [5, 6, 7], 4)
    for tokens, drafts in drafted:
        for k, draft in enumerate(drafts, start=1):
            ahead = model(torch.tensor([tokens + drafts[: k - 1]]), look_ahead=True).ahead[k - 1]
            assert model.logits(ahead[0, -1]).argmax() == draft


@pytest.mark.parametrize("context", [64, 7])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_good_drafts_save_steps(depth: int, context: int) -> None:
    """Catches drafts that are thrown away although they are right; without noise all are."""
    told, took, drafted = speculated(guessable(depth, 0.0), [4, 5], 40, context)
    assert told == list(range(6, 46))
    assert took.accepted == took.drafted
    assert took.steps == -(-39 // (depth + 1))  # a token comes with the prompt
    assert_consistent(took, drafted, depth)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_some_drafts_are_accepted_and_some_are_not(depth: int) -> None:
    """Going back after one of several drafts, then forward: what the tests above rest on."""
    model = guessable(depth, 1.2, 2)
    told, took, drafted = speculated(model, [4, 5, 6], 55)
    assert told == greedy(model, [4, 5, 6], 55)
    assert 0.3 < took.accepted / took.drafted < 1
    assert took.steps < took.tokens - 10
    known = [len(tokens) for tokens, _ in drafted]
    assert {after - before - 1 for before, after in pairwise(known)} == set(range(depth + 1))
    assert_consistent(took, drafted, depth)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_limit_or_a_reader_may_end_within_a_step(depth: int) -> None:
    """Catches accepted tokens told beyond the end, wherever in a step it comes."""
    model = guessable(depth, 1.2, 2)
    text = greedy(model, [4, 5, 6], 16)
    for n in range(16):
        told, took, drafted = speculated(model, [4, 5, 6], n)
        assert told == text[:n] and took.tokens == n
        assert_consistent(took, drafted, depth)
        told = []

        def emit(_sequence: int, token: int, told: list[int] = told, n: int = n) -> bool:
            told.append(token)
            return len(told) < n

        took = generate_speculatively(model, [4, 5, 6], emit, max_new_tokens=99, context=64)
        assert told == text[: max(1, n)] and took.tokens == max(1, n)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_stop_token_may_be_an_accepted_draft(depth: int) -> None:
    """Catches a stop token that is told, or that is only looked for where a step ends."""
    model = guessable(depth, 0.0)
    for stop in range(6, 20):
        told, took, drafted = speculated(model, [4, 5], 40, stop=stop)
        assert told == greedy(model, [4, 5], 40, stop=stop) == list(range(6, stop))
        assert took.tokens == stop - 6
        assert_consistent(took, drafted, depth)


def test_mode_memory_and_precision() -> None:
    """Catches a model left in evaluation mode, a figure that counts blocks of drafts, and fp32 under autocast."""
    model = guessable(2, 0.2).float().train()
    before = torch.get_rng_state()
    told, took, _ = speculated(model, [4, 5], 8)
    assert model.training and torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert took.cache_bytes_per_token == 4 * 2 * (20 + 8)
    with torch.autocast("cpu", torch.bfloat16):
        again, took, _ = speculated(model, [4, 5], 8)
    assert took.cache_bytes_per_token == 2 * 2 * (20 + 8)
    assert again == told == list(range(6, 14))


def test_what_cannot_be_speculated_is_refused() -> None:
    """Without blocks there are no drafts, without a token nothing to continue."""
    with pytest.raises(ValueError, match="multi-token-prediction blocks"):
        speculated(model_of(0), [1], 3)
    with pytest.raises(ValueError, match="at least one token"):
        speculated(model_of(1), [], 3)
