"""Several ranks as a user starts them: what one learns all learn."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from s15erav3.loading import load
from s15erav3.runs.checkpoint import load_checkpoint
from s15erav3.runs.parts import parts_of
from tests.ranks.several import result, run


def assert_same_validation(folder: Path, other: Path) -> None:
    """Every figure of the last validation, to rounding; and so every token counted once."""
    one, two = result(folder), result(other)
    names = {name for name in one if name.startswith("val/") or name.endswith("_global")}
    names |= {"balance/confidence", "balance/margin", "balance/churn", "balance/bias_norm"}
    names |= {"balance/step_churn", "balance/weight_churn"}
    assert len(names) > 10 and one["steps"] == two["steps"]
    for name in names:
        assert one[name] == pytest.approx(two[name], rel=1e-5, abs=1e-7), name


FEW = ["optimizer.lr=1e-12", "trainer.max_steps=2", "data.eval_batch_size=1000"]
"""Weights that stay, so that figures can be compared, and 2 validation batches."""


@pytest.mark.slow
def test_two_ranks_do_what_one_does_and_say_it_once(tmp_path: Path) -> None:
    """Half a batch each, one validation batch in all; with the report at the end, by the first rank alone. Seen to
    fail with the limit left to Lightning, with a window in empty batches, and with the process group still there."""
    few = [*FEW, "+trainer.limit_val_batches=1", "report=true", "callbacks.samples.max_new_tokens=2"]
    assert run(tmp_path / "one", "", *few, "trainer=cpu", ranks=1).status == 0
    two = run(tmp_path / "two", "", *few, "data.batch_size=2")
    assert two.status == 0
    assert_same_validation(tmp_path / "two", tmp_path / "one")
    assert (tmp_path / "two" / "run" / "report.html").stat().st_size > 1e6
    assert two.said.count("s15erav3 trains") == two.said.count("s15erav3 completed") == 1
    assert "no report.html" not in two.said and "distributed" not in two.said


@pytest.mark.slow
def test_more_ranks_than_validation_batches(tmp_path: Path) -> None:
    """Two ranks of four have none. Seen to fail with a probe for churn on each rank."""
    assert run(tmp_path / "one", "", *FEW, "trainer=cpu", ranks=1).status == 0
    for strategy in ("ddp", "fsdp", "expert_parallel"):
        assert (
            run(tmp_path / strategy, "", *FEW, "data.batch_size=1", f"trainer.strategy={strategy}", ranks=4).status == 0
        )
        assert_same_validation(tmp_path / strategy, tmp_path / "one")


@pytest.mark.slow
def test_sharded_ranks_validate_first_and_write_the_same_samples(tmp_path: Path) -> None:
    """A run whose first forward pass is a validation's, by FSDP and, resumed, by expert parallelism. The checkpoint is
    read by one process. Seen to fail in Lightning's inference mode."""
    few = ["trainer.max_steps=2", "trainer.val_check_interval=1", "callbacks.samples.max_new_tokens=4"]
    assert run(tmp_path / "one", "", *few, "trainer=cpu", ranks=1).status == 0
    assert run(tmp_path / "two", "", *few, "data.batch_size=2", "trainer.strategy=fsdp").status == 0
    one, two = ((tmp_path / name / "run" / "samples.jsonl").read_text() for name in ("one", "two"))
    assert one == two and len(one.splitlines()) > 2
    here = f"resume={tmp_path / 'two' / 'run'}"
    more = ["trainer.max_steps=4", "trainer.strategy=expert_parallel", "callbacks.telemetry.every_n_steps=1"]
    assert run(tmp_path / "two", "", here, *more).status == 0
    assert result(tmp_path / "two")["balance/rank_maxvio"] >= 0
    alone = ["trainer.max_steps=6", "trainer.strategy=auto", "trainer.devices=1", "data.batch_size=4"]
    assert run(tmp_path / "two", "", here, *alone, ranks=1).status == 0
    assert result(tmp_path / "two")["steps"] == 6


DIES_WRITING = """
from s15erav3.runs import checkpoint_io
right = checkpoint_io.write_part
def write_part(file, rows):
    if RANK == 1 and file.parent.name == "000004":
        hit(9)
    return right(file, rows)
checkpoint_io.write_part = write_part
"""


@pytest.mark.slow
def test_checkpoints_in_parts(tmp_path: Path) -> None:
    """A rank is killed while it writes its part. The run goes on from the checkpoint before, by another strategy and
    then in one process, which writes whole files again, and ends as one that was never divided or killed."""
    few = ["trainer.max_steps=6", "trainer.val_check_interval=100", "callbacks.checkpoint.every_n_steps=2"]
    assert run(tmp_path / "one", "", *few, "trainer=cpu", ranks=1).status == 0
    parts = ["trainer.strategy=fsdp", "callbacks.checkpoint.sharded=true", "data.batch_size=2"]
    assert run(tmp_path / "two", DIES_WRITING, *few, *parts).status == 1
    here = tmp_path / "two" / "run"
    saved = here / "checkpoints" / "last.ckpt"
    assert load_checkpoint(saved)["global_step"] == 2 and saved.stat().st_size < 100_000
    stopped = f"RANK == 0 and at(3, lambda self: hit({int(signal.SIGTERM)}))"
    more = [f"resume={here}", "trainer.strategy=expert_parallel"]
    assert run(tmp_path / "two", stopped, *more).status == 128 + signal.SIGTERM
    assert {f.name for f in saved.parent.iterdir()} == {"last.ckpt", "last.parts"}
    assert [f.name for f in parts_of(saved).iterdir()] == ["000004.1"]  # what the killed rank left is gone
    assert load(str(here)).step == 4
    alone = [f"resume={here}", "trainer.strategy=auto", "trainer.devices=1", "data.batch_size=4"]
    assert run(tmp_path / "two", "", *alone, ranks=1).status == 0
    assert not parts_of(saved).exists() and load_checkpoint(saved)["global_step"] == 6
    assert_same_validation(tmp_path / "one", tmp_path / "two")
