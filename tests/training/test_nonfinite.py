"""A step whose loss or gradient is not finite changes nothing, and is told before any file is touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s15erav3.__main__ import main
from s15erav3.balancing.smebu import SMEBU
from s15erav3.callbacks.last_checkpoint import LastCheckpoint
from s15erav3.training.module import LanguageModule
from s15erav3.training.nonfinite import Diverged, skips_on_device
from tests.tiny import result, train
from tests.training.parts import Windows, module_for, tiny_net, trainer
from tests.training.test_module import by_adamw, by_muon

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
NAN, INF = float("nan"), float("inf")


def by_sgd(net: nn.Module) -> torch.optim.Optimizer:
    """One that cannot leave out a step by itself."""
    return torch.optim.SGD([{"params": list(net.parameters()), "initial_lr": 0.1}], lr=0.1, momentum=0.9)


OPTIMIZERS = pytest.mark.parametrize("optimizer", [by_adamw, by_muon, by_sgd])
FAULTS = {"the loss": NAN, "layer 01": INF, "the gradient of layers.2.mlp.experts.down_proj": INF}


def poison(module: LanguageModule, windows: Windows, steps: Collection[int], what: str, value: float) -> None:
    """Make ``what`` bad whenever the batch of one of the steps, from 1, is run."""
    bad, right, hit = [windows.batches[step - 1] for step in steps], module._nll, [False]

    def nll(batch: Tensor, look_ahead: bool = False) -> Any:
        hit[0] = any(torch.equal(batch, other) for other in bad)
        found, out = right(batch, look_ahead)
        return (found * value if hit[0] and what == "the loss" else found), out

    module._nll = nll  # type: ignore[method-assign]
    if what.startswith("layer "):
        module.net.layers[int(what[-2:])].register_forward_hook(
            lambda _m, _i, out: (out[0] * value, *out[1:]) if hit[0] else None
        )
    elif what.startswith("the gradient of "):
        parameter = module.net.get_parameter(what.removeprefix("the gradient of "))
        parameter.register_hook(lambda grad: grad * value if hit[0] else grad)


def run(
    optimizer: MakeOptimizer,
    steps: int,
    *,
    bad: Collection[int] = (),
    left_out: Collection[int] = (),
    what: str = "the loss",
    value: float = NAN,
    tolerated: int = 0,
    **settings: Any,
) -> LanguageModule:
    """A module after so many steps, of which the ``bad`` ones are poisoned; batches ``left_out`` never come."""
    windows = Windows(batches=6)
    module = module_for(SMEBU(0.01), tiny_net(), optimizer=optimizer, skip_nonfinite=tolerated)
    poison(module, windows, bad, what, value)
    windows.batches = [batch for i, batch in enumerate(windows.batches, start=1) if i not in left_out]
    trainer(steps, **settings).fit(module, windows)
    return module


def state(module: LanguageModule) -> list[Tensor]:
    """Weights, biases, the balancer's state and the optimizer's."""
    raw: Any = module.optimizers(use_pl_optimizer=False)
    moments = [t for of_one in raw.state_dict()["state"].values() for t in of_one.values() if isinstance(t, Tensor)]
    assert moments
    return [*module.net.state_dict().values(), *module.balancer.state_dict().values(), *moments]


def assert_same(one: LanguageModule, other: LanguageModule) -> None:
    torch.testing.assert_close(state(one), state(other), rtol=0, atol=0)


@OPTIMIZERS
@pytest.mark.parametrize("what", FAULTS)
def test_a_bad_step_and_those_after_it_change_nothing(optimizer: MakeOptimizer, what: str) -> None:
    """All is as two steps left it, bit for bit; and what was bad first is found."""
    module = run(optimizer, 4, bad=[3], what=what, value=FAULTS[what])
    assert_same(module, run(optimizer, 2))
    with pytest.raises(Diverged, match=f"^{what} is not finite at step 3$"):
        module.refuse_if_diverged()


@OPTIMIZERS
@pytest.mark.parametrize("what", FAULTS)
def test_a_tolerated_step_is_as_if_it_had_never_been(optimizer: MakeOptimizer, what: str) -> None:
    """Steps after it go on from the step before."""
    module = run(optimizer, 5, bad=[3], what=what, value=FAULTS[what], tolerated=1)
    assert_same(module, run(optimizer, 4, left_out=[3]))
    module.refuse_if_diverged()
    assert module.guard.counts.tolist()[:2] == [0, 1]
    assert (module.samples_seen, module.trainer.global_step) == (5 * 8, 5)


@OPTIMIZERS
def test_the_very_first_step_may_be_bad(optimizer: MakeOptimizer) -> None:
    """The optimizer has no state yet then."""
    assert_same(run(optimizer, 3, bad=[1], tolerated=1), run(optimizer, 2, left_out=[1]))


@OPTIMIZERS
def test_more_bad_steps_in_a_row_than_tolerated_end_it(optimizer: MakeOptimizer) -> None:
    """The first of the row is named; a single one before it did no harm."""
    module = run(optimizer, 6, bad=[1, 4, 5], tolerated=1)
    assert_same(module, run(optimizer, 2, left_out=[1]))
    with pytest.raises(Diverged, match="the loss is not finite at step 4"):
        module.refuse_if_diverged()


def test_which_optimizers_leave_out_a_step_on_the_device() -> None:
    """Those of this package; a user's own may not know how."""
    assert [skips_on_device(make(tiny_net())) for make in (by_adamw, by_muon, by_sgd)] == [True, True, False]


def test_the_checkpoint_stays_the_good_one(tmp_path: Path) -> None:
    """What would be saved at step 4 is refused; the file of step 2 is untouched."""
    file, seen = tmp_path / "last.ckpt", []

    class Noting(LastCheckpoint):
        def on_exception(self, *args: Any) -> None:
            seen.append(args[0].global_step)
            super().on_exception(*args)

    with pytest.raises(Diverged, match="at step 3"):
        run(by_adamw, 6, bad=[3], callbacks=[Noting(file, 2, 2)], enable_checkpointing=True, limit_val_batches=1)
    assert seen == [4] and {f.name for f in tmp_path.iterdir()} == {"last.ckpt", "step_000002.ckpt"}
    saved = torch.load(file, weights_only=True)
    good = run(by_adamw, 2)
    assert saved["global_step"] == 2
    for name, value in good.net.state_dict().items():
        assert torch.equal(saved["state_dict"][f"net.{name}"], value)


def test_a_validation_is_refused_before_it_begins() -> None:
    """And so is all that callbacks would make of it."""
    with pytest.raises(Diverged, match="layer 02 is not finite at step 2"):
        run(by_muon, 6, bad=[2], what="layer 02", limit_val_batches=1, val_check_interval=3)


@pytest.fixture
def fifth_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of step 5 of every training is NaN."""
    right = LanguageModule._nll

    def nll(self: LanguageModule, windows: Tensor, look_ahead: bool = False) -> Any:
        found, out = right(self, windows, look_ahead)
        return (found * NAN if self.training and self.trainer.global_step == 4 else found), out

    monkeypatch.setattr(LanguageModule, "_nll", nll)


@pytest.mark.usefixtures("fifth_is_bad")
def test_a_user_is_told_what_is_left_and_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last checkpoint is of step 4, and no row of a bad step was written."""
    folder = tmp_path / "run"
    assert train("trainer.max_steps=12", "logger=none", run_dir=folder) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    for words in ("diverged: the loss is not finite at step 5;", "last.ckpt (step 4)", "resume=", "skip_nonfinite=1"):
        assert words in said
    assert (result(folder)["status"], result(folder)["error"]) == ("failed", "Diverged")
    assert json.loads((folder / "balance.jsonl").read_text().splitlines()[-1])["step"] == 4


@pytest.mark.usefixtures("fifth_is_bad")
def test_a_tolerated_step_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In ``train/skipped_steps``; the logged loss is that of the other steps.

    And weights that are NaN write nothing.
    """
    folder = tmp_path / "run"
    assert train("trainer.max_steps=6", "trainer.skip_nonfinite=1", "logger=none", run_dir=folder) == 0
    assert result(folder)["train/skipped_steps"] == 1
    assert result(folder)["train/loss"] < 10
    payload = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    payload["state_dict"]["net.norm.weight"][0] = NAN
    torch.save(payload, tmp_path / "bad.ckpt")
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "bad.ckpt")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "norm.weight is not finite" in said[-1] and not any("Traceback" in line for line in said)
