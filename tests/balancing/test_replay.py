"""balance.jsonl tells all that a rule did: from the recorded loads, plain arithmetic gives updates and biases."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.balancing.runs import STEPS
from tests.tiny import rows

TOKENS = 2 * 4 * 16  # micro-batches, rows and tokens of a step
Row = list[float]


def centred(values: Row) -> Row:
    mean = math.fsum(values) / len(values)
    return [v - mean for v in values]


def cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def relative(load: Row) -> Row:
    fair = sum(load) / len(load)
    return [(fair - c) / fair for c in load]


def signs(load: Row) -> Row:
    return [float((e > 0) - (e < 0)) for e in relative(load)]


def loss_free(load: Row, done: float, last: Row) -> Row:
    return [0.01 * cosine(done) * e for e in centred(signs(load))]


def proportional(load: Row, done: float, last: Row) -> Row:
    return [0.01 * cosine(done) * e for e in centred(relative(load))]


def original(load: Row, done: float, last: Row) -> Row:
    distances = [c / sum(load) - 1 / len(load) for c in load]
    return [-0.1 * abs(d) * d for d in distances]


def smebu(load: Row, done: float, last: Row) -> Row:
    step = [0.01 * cosine(done) * e for e in centred([math.tanh(2 * e) for e in relative(load)])]
    return [0.5 * m + 0.5 * d for m, d in zip(last, step, strict=True)]  # the update is the momentum


def dsv3(load: Row, done: float, last: Row) -> Row:
    return [0.01 * e if done < 0.6 else 0.0 for e in centred(signs(load))]


def replayed(lines: list[dict[str, Any]], rule: Callable[[Row, float, Row], Row]) -> None:
    """Every recorded update of every layer is the rule's, to fp32's rounding."""
    for layer in range(len(lines[0]["layers"])):
        last = [0.0] * len(lines[0]["load"][layer])
        for done, line in enumerate(lines):
            last = rule(line["load"][layer], done / STEPS, last)
            assert line["bias_update"][layer] == pytest.approx(last, abs=2e-8), (layer, line["step"])


@pytest.mark.parametrize(
    "rule", [loss_free, smebu, *(pytest.param(r, marks=pytest.mark.slow) for r in (proportional, original, dsv3))]
)
def test_recorded_updates_are_the_rules_of_the_recorded_loads(
    rule: Callable[[Row, float, Row], Row], unbroken: Callable[[str], Path]
) -> None:
    """Seen to fail with loads of the last micro-batch, progress that is one step late, and each rule with its sign
    turned in the package."""
    lines = rows(unbroken(rule.__name__) / "balance.jsonl")
    replayed(lines, rule)
    assert any(update for line in lines for layer in line["bias_update"] for update in layer)


@pytest.mark.parametrize(
    "name",
    ["loss_free", "smebu", "quantile"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("proportional", "original", "dsv3", "bip")],
)
def test_biases_are_the_sums_of_recorded_updates(name: str, unbroken: Callable[[str], Path]) -> None:
    """From the first step on, to the last bit in fp32, and the checkpoint holds the last of them. Loads add up to the
    tokens of the step times K. Seen to fail with a bias recorded before its update, and with a move that is doubled."""
    run_dir = unbroken(name)
    lines = rows(run_dir / "balance.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    bias = torch.zeros(len(lines[0]["layers"]), 8)
    for line in lines:
        assert [sum(load) for load in line["load"]] == [2 * TOKENS] * len(line["layers"])
        bias = bias + torch.tensor(line["bias_update"])
        assert torch.equal(bias, torch.tensor(line["bias"])), line["step"]
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for row, layer in zip(bias, lines[0]["layers"], strict=True):
        assert torch.equal(state[f"net.layers.{layer}.mlp.router.bias"], row)
    assert bias.abs().max() > 0
