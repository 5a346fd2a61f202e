"""Pictures at validations, for loggers that can show them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import Logger

from s15erav3.balancing import LossFree
from s15erav3.callbacks.expert_media import ExpertMedia
from s15erav3.callbacks.telemetry import Telemetry
from tests.training.parts import Windows, module_for, tiny_net, trainer


class Album(Logger):
    """Keeps the order of what it is given."""

    name, version = "", ""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self.media: list[tuple[Any, Any, int]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append(("val" if "val/bpb" in metrics else "train", step))

    def log_media(self, figures: Any, histograms: Any, step: int) -> None:
        self.calls.append(("media", step))
        self.media.append((figures, histograms, step))

    def end_row(self) -> None:
        self.calls.append(("end", None))


class Data(Windows):
    length = 7


def run(tmp_path: Any, **values: Any) -> tuple[Album, Any]:
    """Four steps with validations after the second and the fourth."""
    album, net = Album(), tiny_net(**values)
    module = module_for(LossFree(0.02), net)
    callbacks = [ExpertMedia(), Telemetry(str(tmp_path), every_n_steps=1)]
    work = trainer(4, callbacks=callbacks, limit_val_batches=1.0, val_check_interval=2)
    work.loggers = [album]
    work.fit(module, Data())
    return album, module


def test_pictures_come_at_validations_alone_and_close_the_steps_row(tmp_path: Any) -> None:
    """Catches pictures in training steps, a row that ends before its validation is in, and one that never ends."""
    album, _ = run(tmp_path)
    told = [call for call in album.calls if call[0] != "end"]
    assert told == [
        ("train", 1), ("train", 2), ("val", 2), ("media", 2), ("train", 3), ("train", 4), ("val", 4), ("media", 4),
    ]  # fmt: skip
    for at, (kind, step) in enumerate(album.calls):
        if kind == "train":
            assert album.calls[at - 1][0] == "end", step


@pytest.mark.parametrize("depth", [0, 1])
def test_heatmaps_show_the_validations_loads_and_the_biases_now(depth: int, tmp_path: Any) -> None:
    """Catches loads of a training step, loads that validation's end has zeroed, the biases of before, and the layers of
    multi-token prediction under the number of another."""
    album, module = run(tmp_path, num_nextn_predict_layers=depth)
    figures, histograms, step = album.media[-1]
    assert step == 4
    loads = torch.zeros(2, 4, dtype=torch.int64)
    with torch.no_grad():
        for batch in Data().val_dataloader():
            loads += torch.stack([routing.load for routing in module.net.eval()(batch[:, :-1]).routings])
    assert module.validation.last_loads.tolist() == loads.tolist()
    shares = (loads / loads.double().mean(dim=-1, keepdim=True)).flatten().tolist()
    heat, bias = figures["load_heatmap"].data[0], figures["bias_heatmap"].data[0]
    assert list(heat.y) == ["L01", "L02"]
    assert np.array(heat.z).flatten().tolist() == pytest.approx(shares, abs=1e-4)
    assert histograms == {"load_histogram": pytest.approx(shares)}
    assert list(bias.y) == ["L01", "L02", "L03"][: 2 + depth]
    biases = torch.stack([router.bias for router in module.routers])
    assert np.array(bias.z).flatten().tolist() == pytest.approx(biases.flatten().tolist(), abs=1e-4)


def test_a_dense_model_has_no_pictures(tmp_path: Any) -> None:
    """Catches a figure without experts."""
    experts = ("n_routed_experts", "num_experts_per_tok", "n_shared_experts", "first_k_dense_replace")
    album, _ = run(tmp_path, **dict.fromkeys(experts, 0))
    assert not album.media and ("val", 4) in album.calls
