"""What is logged of a run: with multi-token prediction, with a balancing loss, with a capacity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from s15erav3.balancing import AddOns, AuxiliaryLoss, Balancer, Combined, LossFree
from s15erav3.balancing.diagnostics import random_floor
from s15erav3.callbacks.telemetry import Telemetry
from s15erav3.model import routers, training_flops_per_token
from s15erav3.training.records import StepRecord
from tests.tiny import rows
from tests.training.parts import Windows, module_for, tiny_net, trainer


class Records(L.Callback):
    """Keeps the record of each step."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Tensor, index: int) -> None:
        self.steps.append(module.last_step)


class Data(Windows):
    length = 7


@pytest.mark.parametrize("depth", [0, 2])
def test_layers_ahead_have_their_columns_and_their_loss_its_mean(depth: int, tmp_path: Path) -> None:
    """Catches a loss of the last step alone, columns that move up by one, and blocks under a layer's number."""
    net, seen = tiny_net(num_nextn_predict_layers=depth), Records()
    telemetry = Telemetry(str(tmp_path), every_n_steps=4)
    module = module_for(LossFree(0.02), net)
    trainer(4, callbacks=[seen, telemetry]).fit(module, Data())
    row = telemetry.latest
    later = seen.steps[1:]  # the first step has a row of its own
    for name, values in (
        ("train/loss", [step.loss for step in later]),
        ("train/bpb", [step.bpb for step in later]),
        ("train/mtp_loss", [step.mtp_loss for step in later]),
    ):
        if name != "train/mtp_loss" or depth:
            mean = torch.stack(values).mean().item()  # type: ignore[arg-type]
            assert row[name] == pytest.approx(mean, rel=1e-6), name
    assert ("train/mtp_loss" in row) == (depth > 0)
    assert row["train/grad_norm"] == pytest.approx(seen.steps[-1].grad_norm.item())
    assert row["flops"] == 4 * 8 * 7 * training_flops_per_token(net.config, 7)

    layers, last = [1, 2, *range(3, 3 + depth)], seen.steps[-1]
    assert last.loads is not None and last.bias_update is not None
    assert {name[6:8] for name in row if name.startswith("bias_L")} == {f"{layer:02d}" for layer in layers}
    for at, (layer, router) in enumerate(zip(layers, routers(net), strict=True)):
        load = last.loads[at].double()
        for expert in range(4):
            name = f"L{layer:02d}/E{expert:02d}"
            assert row[f"load_{name}"] == pytest.approx((load[expert] / load.mean()).item())
            assert row[f"bias_{name}"] == pytest.approx(router.bias[expert].item())
            assert row[f"bias_update_{name}"] == pytest.approx(last.bias_update[at, expert].item())
    line = rows(tmp_path / "balance.jsonl")[-1]
    assert line["layers"] == layers and line["load"] == last.loads.tolist()


def logged(balancer: Balancer, folder: Path, steps: int = 4) -> tuple[dict[str, float], Records]:
    """The last row of a run of so many steps, and the record of each."""
    seen, telemetry = Records(), Telemetry(str(folder), every_n_steps=steps)
    module = module_for(balancer, micro_batches=2)
    trainer(steps, callbacks=[seen, telemetry]).fit(module, Data())
    return telemetry.latest, seen


def test_balance_of_the_last_step_by_hand(tmp_path: Path) -> None:
    """From the recorded loads and biases in plain Python. Seen to fail with each measure exchanged for another, with
    a figure of the first layer alone, with the floor of twice the tokens, and with biases
    as they were before the update."""
    row, _ = logged(LossFree(0.02), tmp_path)
    line = rows(tmp_path / "balance.jsonl")[-1]
    loads, biases = line["load"], line["bias"]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    fair = [mean(load) for load in loads]
    expected = {
        "maxvio_batch": mean([(max(load) - m) / m for load, m in zip(loads, fair, strict=True)]),
        "minvio_batch": mean([(m - min(load)) / m for load, m in zip(loads, fair, strict=True)]),
        "gini": mean(
            [sum(abs(x - y) for x in load for y in load) / 16 / (2 * m) for load, m in zip(loads, fair, strict=True)]
        ),
        "cv": mean([mean([(c - m) ** 2 for c in load]) ** 0.5 / m for load, m in zip(loads, fair, strict=True)]),
        "maxvio_floor": random_floor(8 * 7, 4, 2),  # 8 windows of 7 tokens
        "dead_experts": sum(c == 0 for load in loads for c in load),
        "bias_norm": mean([sum(b * b for b in bias) ** 0.5 for bias in biases]),
        "bias_spread": mean([max(bias) - min(bias) for bias in biases]),
    }
    for name, value in expected.items():
        assert row[f"balance/{name}"] == pytest.approx(value, rel=1e-5), name
    assert "train/balance_loss" not in row and "balance/drop_rate" not in row


def test_the_balancing_loss_is_averaged_since_the_last_row(tmp_path: Path) -> None:
    """Seen to fail with the loss of the last step, and with a column that moves up into the place of another."""
    row, seen = logged(AuxiliaryLoss(0.1), tmp_path)
    losses = [step.balance_loss.item() for step in seen.steps[1:] if step.balance_loss is not None]
    assert len(losses) == 3 and row["train/balance_loss"] == pytest.approx(sum(losses) / 3)
    assert row["train/grad_norm"] == pytest.approx(seen.steps[-1].grad_norm.item())
    assert row["train/loss"] == pytest.approx(sum(step.loss.item() for step in seen.steps[1:]) / 3)


def test_the_drop_rate_is_a_share_of_the_steps_choices(tmp_path: Path) -> None:
    """Seen to fail with the choices of one layer in the place of all."""
    row, seen = logged(Combined(LossFree(0.02), AddOns(capacity_factor=0.5, z_loss=1e-3)), tmp_path)
    dropped = seen.steps[-1].dropped
    assert dropped is not None
    assert row["balance/drop_rate"] == pytest.approx(dropped.sum().item() / (2 * 8 * 7 * 2))
    assert row["balance/drop_rate"] >= 0.4  # half of the places are missing
    assert "train/balance_loss" in row
    assert row["bias_L01/E00"] == pytest.approx(rows(tmp_path / "balance.jsonl")[-1]["bias"][0][0])
