"""Traces against a recomputation by hand, from scores alone; passages against the events of the text."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s15erav3.analysis.trace import LONGEST, NOBODY, Passage, Trace, sample_passages, trace
from s15erav3.data.commentary import parse_events
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.labels import label_tokens
from s15erav3.data.tokens import texts_of
from s15erav3.model import Transformer
from s15erav3.model.selection import capacity
from tests.training.parts import VOCABULARY, tiny_net

LENGTH = 16
# Shorter than half a window, at the beginning of the part, and over three windows.
PASSAGES = [Passage(30, 37), Passage(1, 5), Passage(40, 59)]
# Where the window of each passage's tokens begins and ends.
WINDOWS = [(21, 37, 30, 37), (0, 5, 1, 5), (32, 48, 40, 48), (40, 56, 48, 56), (43, 59, 56, 59)]
TOKENS = np.random.default_rng(0).integers(VOCABULARY, size=70).astype(np.uint16)


def traced(net: Transformer) -> Trace:
    found = trace(net.eval(), TOKENS, PASSAGES, LENGTH, autocast=nullcontext)
    assert found is not None
    return found


@torch.no_grad()
def scores_by_hand(net: Transformer) -> list[list[np.ndarray]]:
    """Scores of whole windows, by window and layer."""
    return [
        [r.scores.numpy() for r in net(torch.from_numpy(TOKENS[None, begin:end].astype(np.int64))).routings]
        for begin, end, _, _ in WINDOWS
    ]


def best(preference: np.ndarray, allowed: np.ndarray, k: int) -> set[int]:
    order = sorted(np.flatnonzero(allowed), key=lambda e: -preference[e])
    return {int(e) for e in order[:k]}


def open_groups(preference: np.ndarray, groups: int) -> np.ndarray:
    """Experts of the better half of the groups, by the sum of a group's best two."""
    sums = [np.sort(group)[-2:].sum() for group in np.split(preference, groups)]
    good = np.argsort(sums)[-(groups // 2) :] if groups > 1 else [0]
    return np.isin(np.arange(len(preference)) // (len(preference) // groups), good)


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({}, 1),
        ({"scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 2.5}, 1),
        ({"n_group": 4, "topk_group": 2}, 4),
        ({"num_nextn_predict_layers": 1}, 1),
    ],
    ids=["sigmoid", "softmax", "groups", "mtp"],
)
def test_a_trace_is_what_scores_and_biases_say(settings: dict[str, Any], groups: int) -> None:
    """Every token of every layer. Catches weights or the order taken from s + b, a window that begins at the passage
    or ends after it, tokens of one passage under another, and groups forgotten in what s alone would choose."""
    net = tiny_net(n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=8, **settings)
    for layer in net.layers[1:]:
        layer.mlp.router.bias.normal_(std=0.02 if "scoring_func" in settings else 0.1)
    found, by_window = traced(net), scores_by_hand(net)
    config = net.config
    assert (found.layers, found.top_k, found.passages) == ([1, 2], 3, PASSAGES)
    assert found.experts.shape == found.without_bias.shape == (2, 30, 3)
    turned = 0
    for layer in range(2):
        bias = net.layers[layer + 1].mlp.router.bias.numpy()
        n = 0
        for (begin, _, first, end), windows in zip(WINDOWS, by_window, strict=True):
            for s in windows[layer][first - begin : end - begin]:
                chosen = best(s + bias, open_groups(s + bias, groups), 3)
                alone = best(s, open_groups(s, groups), 3)
                ordered = sorted(chosen, key=lambda e: -s[e])
                total = s[ordered].sum() if config.norm_topk_prob else 1.0
                assert found.experts[layer, n].tolist() == ordered
                assert found.without_bias[layer, n].tolist() == sorted(alone, key=lambda e: -s[e])
                np.testing.assert_allclose(found.scores[layer, n], s[ordered], atol=1e-6)
                np.testing.assert_allclose(found.biases[layer], bias)
                weights = s[ordered] / total * config.routed_scaling_factor
                np.testing.assert_allclose(found.weights[layer, n], weights, rtol=1e-5)
                turned += chosen != alone
                n += 1
        assert n == 30
    assert 5 < turned < 55  # the biases were neither idle nor all that counted


def test_where_experts_choose_a_token_has_as_many_as_want_it() -> None:
    """Catches experts in the place of tokens, a fixed number for each token, and padding that passes for expert 0."""
    net = tiny_net(
        n_routed_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        topk_method="expert_choice",
        norm_topk_prob=False,
    )
    found = traced(net)
    counts = set()
    for layer in range(2):
        n = 0
        for (begin, end, first, _), windows in zip(WINDOWS, scores_by_hand(net), strict=True):
            scores = windows[layer]
            places = capacity(end - begin, 8, 2)
            takes = np.argsort(np.argsort(-scores, axis=0), axis=0) < places
            for s, wanted in zip(scores[first - begin :], takes[first - begin :], strict=True):
                ordered = sorted(np.flatnonzero(wanted), key=lambda e: -s[e])
                padding = [NOBODY] * (found.experts.shape[2] - len(ordered))
                assert found.experts[layer, n].tolist() == ordered + padding
                np.testing.assert_allclose(found.weights[layer, n], [*s[ordered], *[0.0] * len(padding)], rtol=1e-5)
                assert (found.scores[layer, n, len(ordered) :] == 0).all()
                counts.add(len(ordered))
                n += 1
    assert found.top_k is None and len(counts) > 2
    assert max(counts) == found.experts.shape[2]
    np.testing.assert_array_equal(found.experts, found.without_bias)


def test_a_dense_model_has_no_trace() -> None:
    """A report of a dense run must do without, and not die."""
    dense = {"n_routed_experts": 0, "n_shared_experts": 0, "num_experts_per_tok": 0, "first_k_dense_replace": 0}
    assert trace(tiny_net(**dense).eval(), TOKENS, PASSAGES, LENGTH, autocast=nullcontext) is None


@pytest.fixture(scope="module")
def sample() -> CommentaryData:
    return CommentaryData(vocab_size=512, sequence_length=LENGTH).prepare()


def test_passages_of_commentary_are_whole_events_of_every_kind(sample: CommentaryData) -> None:
    """Catches a header left with the event before, end-of-text in a passage, one kind alone, and one passage twice."""
    tokens = sample.token_files.part("val")
    labels = label_tokens(sample.corpus(), sample.plan, "val", sample.tokenizer, tokens)
    passages = sample_passages(tokens, labels, sample.tokenizer.end_of_text, slots=4)
    text = "".join(texts_of(sample.corpus(), sample.plan, "val"))
    events = [event.text for event in parse_events(io.StringIO(text), Path("val"))]
    read = [sample.tokenizer.decode(tokens[start:stop].tolist()) for start, stop in passages]
    cut = [stop - start == LONGEST for start, stop in passages]
    assert len(set(read)) == len(read) == 16
    assert all(any(e.startswith(r) if c else e == r for e in events) for r, c in zip(read, cut, strict=True))
    kinds = [labels["event"].names[labels["event"].codes[passage.start]] for passage in passages]
    assert {kind: kinds.count(kind) for kind in kinds} == {"FOUR": 4, "SIX": 4, "other": 4, "wicket": 4}
    assert passages == sorted(passages) and passages[-1].start > len(tokens) * 0.7
    assert len(sample_passages(tokens, labels, sample.tokenizer.end_of_text, slots=30 * 64)) == 4


def test_passages_of_other_text_keep_to_their_documents() -> None:
    """Catches a stretch over the end of a document, an empty one, and text that is left out."""
    end = 9
    tokens = np.array([end, *[1] * 3, end, end, *[2] * (LONGEST + 5), end, *[3] * 7], dtype=np.uint16)
    passages = sample_passages(tokens, {}, end, slots=4)
    stretches = [tokens[start:stop].tolist() for start, stop in passages]
    assert stretches == [[1] * 3, [2] * LONGEST, [2] * 5, [3] * 7]
    assert sample_passages(tokens, {}, end, slots=4, count=2) == passages[:2]
