"""What result.json says of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from s15erav3.session import outcome
from tests.model.reference import random_model, tiny_config


def test_the_device_is_the_one_that_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning moves a module back to the host when training ends."""
    monkeypatch.setattr(outcome, "device_name", str)
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cuda", 0)),
        callbacks=[],
        callback_metrics={},
        global_step=1,
        max_steps=1,
        precision="bf16-mixed",
    )
    data: Any = SimpleNamespace(samples_per_epoch=1, tokenizer=SimpleNamespace(name="gpt2"))
    net = random_model(tiny_config(), 0)
    module: Any = SimpleNamespace(net=net, tokens_seen=1, samples_seen=1, device=torch.device("cpu"))
    threads: Any = SimpleNamespace(number=1)
    assert outcome.measured(1, data, module, trainer, threads)["device"] == "cuda:0"
