"""Every strategy, interrupted in the middle of a step, goes on as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from s15erav3.__main__ import main
from s15erav3.training.module import LanguageModule
from tests.balancing.runs import RUNS, settings_of
from tests.tiny import rows, train

FAST = ("smebu", "add_ons")
"""State and random numbers; the others have neither, or forget them between steps."""


class Killed(BaseException):
    """Stands for a crash: nothing of the program catches it."""


def state_of(run_dir: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def killed_in_step(step: int, name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the second of the two micro-batches of ``step`` (from 1) is read."""
    original, calls = LanguageModule._nll, 0

    def dies(self: LanguageModule, windows: Tensor, **settings: bool):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += self.training
        if calls == 2 * step:
            raise Killed
        return original(self, windows, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModule, "_nll", dies)
        with pytest.raises(Killed):
            train(*settings_of(name), run_dir=run_dir)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in RUNS])
def test_an_interrupted_run_ends_with_the_same_bits(
    name: str, unbroken: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 4 dies after one of its two micro-batches; saved was step 2. Weights, biases, momentum and every recorded
    load, bias and update are those of the run that nothing interrupted.

    Seen to fail: smebu with ``persistent=False``, add_ons without the generators' state in the checkpoint, global with
    loads kept over steps, bip and quantile with what was observed kept over steps.
    """
    run_dir = tmp_path / "run"
    killed_in_step(4, name, run_dir, monkeypatch)
    torch.rand(7)  # another state of the generators must not matter
    assert main(["train", f"resume={run_dir}"]) == 0
    whole, mine = state_of(unbroken(name)), state_of(run_dir)
    assert whole.keys() == mine.keys() and any(key.endswith("router.bias") for key in whole)
    assert ("balancer.strategy.momentum" in whole) == (name in FAST)
    for key, value in whole.items():
        assert torch.equal(value, mine[key]), key
    assert rows(run_dir / "balance.jsonl") == rows(unbroken(name) / "balance.jsonl")
