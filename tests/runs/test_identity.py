"""Settings changed on resume: harmless, another experiment, or wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from s15erav3.__main__ import main
from s15erav3.runs.identity import changes
from tests.tiny import few, result, train

WRONG = {
    "model.rope_theta=20000": ["model.rope_theta: 10000.0 -> 20000"],
    "model.rms_norm_eps=1e-3": ["model.rms_norm_eps: 1e-06 -> 0.001"],
    "experts.scoring_func=softmax": ["experts.scoring_func: sigmoid -> softmax"],
    "experts.routed_scaling_factor=3": ["experts.routed_scaling_factor"],
    "data.sequence_length=16": ["data.sequence_length: 32 -> 16"],
}
EXPERIMENT = {
    "optimizer.lr=0.001": ("optimizer.lr", [0.004, 0.001]),
    "data.batch_size=2": ("data.batch_size", [4, 2]),
    "seed=9": ("seed", [1, 9]),
    "trainer.accumulate_grad_batches=2": ("trainer.accumulate_grad_batches", [1, 2]),
    "balancing.rate=0.5": ("balancing.rate", None),
    "balancing.z_loss=0.001": ("balancing.z_loss", [0.0, 0.001]),
    "trainer.gradient_clip_val=0.5": ("trainer.gradient_clip_val", [1.0, 0.5]),
    "schedule.warmup_steps=1": ("schedule.warmup_steps", None),
    "loss_chunk=64": (None, None),
    "callbacks.telemetry.every_n_steps=1": (None, None),
    "callbacks.checkpoint.every_n_steps=1": (None, None),
    "callbacks.samples=null": (None, None),
    "trainer.val_check_interval=1": (None, None),
    "data.eval_batch_size=32": (None, None),
    "model.max_position_embeddings=8192": (None, None),
    "trainer.skip_nonfinite=2": (None, None),
}
FAST = ("model.rope_theta=20000", "optimizer.lr=0.001", "balancing.z_loss=0.001")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 steps, of which a row is owed."""
    folder = tmp_path_factory.mktemp("changes") / "run"
    assert train("trainer.max_steps=3", "callbacks.telemetry.every_n_steps=4", run_dir=folder) == 0
    return folder


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "copy"))


@pytest.mark.parametrize("setting", few(WRONG, *FAST))
def test_what_the_weights_were_not_trained_with_is_refused(
    setting: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless force=true says that one knows better; it is then recorded, and asked for once."""
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert main(["train", f"resume={copy}", setting, "trainer.max_steps=4"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in [*WRONG[setting], "force=true", str(copy)])
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before

    assert main(["train", f"resume={copy}", setting, "force=true", "trainer.max_steps=4"]) == 0
    key = setting.partition("=")[0]
    assert key in capsys.readouterr().err
    assert key in result(copy)["resumed"][0]["changed"]
    assert main(["train", f"resume={copy}", "trainer.max_steps=5"]) == 0
    # force was for that one time
    assert main(["train", f"resume={copy}", "model.rope_theta=30000", "trainer.max_steps=6"]) == 2


@pytest.mark.parametrize("setting", few(EXPERIMENT, *FAST))
def test_what_may_change_is_told_and_recorded(setting: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On screen all of it; in result.json what makes it another experiment."""
    capsys.readouterr()
    assert main(["train", f"resume={copy}", setting, "trainer.max_steps=5"]) == 0
    said, (told,) = capsys.readouterr().err, result(copy)["resumed"]
    key, values = EXPERIMENT[setting]
    assert told["step"] == 3 and set(told["changed"]) == ({key} if key else set())
    if values:
        assert told["changed"][key] == values
    assert ("makes it another experiment" in said) == (key is not None)
    if not setting.endswith("null"):
        assert setting.partition("=")[0] in said


@pytest.mark.parametrize("setting", ["model.hidden_size=64", "experts.n_routed_experts=4", "model.num_layers=4"])
def test_another_architecture_cannot_be_forced(setting: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights do not fit: one sentence, whatever force says."""
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert main(["train", f"resume={copy}", setting, "force=true", "trainer.max_steps=4"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has another architecture" in line and str(copy) in line
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before


def test_a_row_that_is_owed_may_have_other_terms_than_the_next(tmp_path: Path) -> None:
    """Steps 2 and 3 were to be logged with step 4, which now has a term more in its loss."""
    run_dir = tmp_path / "run"
    settings = ["callbacks.telemetry.every_n_steps=4", "callbacks.checkpoint.keep_every_n_steps=3"]
    assert train("trainer.max_steps=5", *settings, run_dir=run_dir) == 0
    early = run_dir / "checkpoints" / "step_000003.ckpt"
    assert main(["train", f"resume={early}", "balancing.z_loss=0.001", "trainer.max_steps=4"]) == 0
    assert result(run_dir)["train/balance_loss"] > 0


def test_each_setting_is_of_one_kind() -> None:
    """Longer names decide over shorter ones; what only one side has is no change."""
    before = {"a": 1, "model": {"x": 1, "initializer_range": 1}, "data": {"num_workers": 0, "batch_size": 1}, "old": 1}
    now = {"a": 2, "model": {"x": 2, "initializer_range": 2}, "data": {"num_workers": 2, "batch_size": 2}, "new": 1}
    found = {change.key: change.kind for change in changes(before, now)}
    assert found == {
        "a": "experiment",
        "model.x": "wrong",
        "model.initializer_range": "harmless",
        "data.num_workers": "harmless",
        "data.batch_size": "experiment",
    }
    assert changes(before, before) == []


def test_a_group_cannot_be_chosen_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where single settings of it follow, which Hydra would look for in the choice's name."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=1", run_dir=run_dir) == 0
    capsys.readouterr()
    assert main(["train", "data=ipl", "data.path=x", f"resume={run_dir}"]) == 2
    assert "data=ipl cannot be chosen for a resumed run" in capsys.readouterr().err
