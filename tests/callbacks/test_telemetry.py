"""What is logged of a run with multi-token prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from s15erav3.balancing import LossFree
from s15erav3.callbacks.telemetry import Telemetry
from s15erav3.model import routers
from s15erav3.training.module import LanguageModule, StepRecord
from s15erav3.training.mtp import MultiTokenLoss
from s15erav3.training.schedule import Constant
from tests.tiny import rows
from tests.training.parts import VOCABULARY, Windows, tiny_net, trainer


class Records(L.Callback):
    """Keeps the record of each step."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Tensor, index: int) -> None:
        self.steps.append(module.last_step)


class Data(Windows):
    length = 7


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": list(net.parameters()), "initial_lr": 0.5}], lr=0.5)


@pytest.mark.parametrize("depth", [0, 2])
def test_layers_ahead_have_their_columns_and_their_loss_its_mean(depth: int, tmp_path: Path) -> None:
    """Catches a loss of the last step alone, columns that move up by one, and blocks under a layer's number."""
    net, seen = tiny_net(num_nextn_predict_layers=depth), Records()
    telemetry = Telemetry(str(tmp_path), every_n_steps=4)
    module = LanguageModule(
        net,
        LossFree(0.02),
        optimizer=sgd,
        schedule=Constant(),
        byte_lengths=torch.arange(VOCABULARY) % 5,
        multi_token_loss=MultiTokenLoss(0.3, 0.1, 0.67, end_of_text=7),
    )
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

    layers, last = [1, 2, *range(3, 3 + depth)], seen.steps[-1]
    assert last.loads is not None and last.bias_change is not None
    assert {name[6:8] for name in row if name.startswith("bias_L")} == {f"{layer:02d}" for layer in layers}
    for at, (layer, router) in enumerate(zip(layers, routers(net), strict=True)):
        load = last.loads[at].double()
        for expert in range(4):
            name = f"L{layer:02d}/E{expert:02d}"
            assert row[f"load_{name}"] == pytest.approx((load[expert] / load.mean()).item())
            assert row[f"bias_{name}"] == pytest.approx(router.bias[expert].item())
            assert row[f"bias_update_{name}"] == pytest.approx(last.bias_change[at, expert].item())
    line = rows(tmp_path / "balance.jsonl")[-1]
    assert line["layers"] == layers and line["load"] == last.loads.tolist()
