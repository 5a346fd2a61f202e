"""What sharded strategies refuse, before any other rank is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_bad_input import refusal
from tests.tiny import TINY

TWO = "trainer.devices=2"
THREE = "trainer.devices=3"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["trainer=fsdp"], ["trainer.strategy=fsdp", "at least 2 ranks", "trainer.devices=2"]),
        (["trainer=expert_parallel"], ["trainer.strategy=expert_parallel", "at least 2 ranks"]),
        (["trainer=expert_parallel", THREE], ["n_routed_experts=8", "multiple", "3", "trainer=fsdp"]),
        (["trainer=expert_parallel", TWO, "experts=dense", "balancing=none"], ["needs experts", "trainer=fsdp"]),
        (["trainer=fsdp", THREE, "trainer.replicas=2"], ["trainer.replicas=2", "3", "at least 2 ranks", "trainer=ddp"]),
        (["trainer=fsdp", TWO, "trainer.replicas=2"], ["trainer.replicas=2", "2", "at least 2 ranks", "trainer=ddp"]),
        (["trainer=expert_parallel", "trainer.devices=6", "trainer.replicas=2"], ["n_routed_experts=8", "copy, 3"]),
        (["trainer=ddp", TWO, "trainer.replicas=2"], ["trainer.replicas=2", "strategy=fsdp", "trainer.replicas=1"]),
        (["trainer=fsdp", TWO, "compile=true"], ["compile=true", "trainer.strategy=fsdp", "trainer=ddp"]),
        (["trainer=fsdp", TWO, "balancing=simbal"], ["SimBal", "trainer.strategy=fsdp", "trainer=ddp"]),
        (["trainer=fsdp", TWO, "balancing/loss=erc"], ["ExpertRouterCoupling", "trainer=ddp"]),
        (["trainer=fsdp", TWO, "balancing=anticipatory"], ["Anticipatory", "trainer=ddp"]),
    ],
)
def test_one_sentence_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: list[str]
) -> None:
    """With the key, its value and a remedy; nothing is left behind."""
    run = tmp_path / "run"
    said = refusal(capsys, "train", *settings, *TINY, f"hydra.run.dir={run}")
    assert all(word in said for word in words), said
    assert not run.exists()
