"""Names and tags of a run, from the files that Hydra leaves in its folder."""

from __future__ import annotations

from pathlib import Path

import yaml

from s15erav3.runs.naming import choices, run_name, tags

CHOICES = {"experts": "e16", "balancing": "loss_free", "optimizer": "muon", "sweep": None, "hydra/launcher": "basic"}


def folder(place: Path, task: list[str], sweep: list[str] | None = None, params: dict[str, str] | None = None) -> Path:
    """A run's folder with the overrides of its command line, in a sweep with those of the sweep's."""
    run_dir = place / "0"
    (run_dir / ".hydra").mkdir(parents=True)
    hydra = {"overrides": {"task": task}, "runtime": {"choices": CHOICES}}
    (run_dir / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    if sweep is not None:
        whole = {"overrides": {"task": sweep}, "sweeper": {"params": params}}
        (place / "multirun.yaml").write_text(yaml.safe_dump({"hydra": whole}))
    return run_dir


def test_a_run_by_itself_is_named_by_what_was_given(tmp_path: Path) -> None:
    """Plumbing and what is said already must not fill the name."""
    given = ["experts=e16", "optimizer=muon", "optimizer.lr=0.002", "seed=3", "logger=both", "+data.path='x y'"]
    run_dir = folder(tmp_path, [*given, "hydra.run.dir=x", "callbacks.telemetry.every_n_steps=2"])
    assert run_name(run_dir, choices(run_dir)) == "e16 loss_free muon lr=0.002 s3"


def test_a_run_of_a_sweep_is_named_by_what_varies_in_it(tmp_path: Path) -> None:
    """Seen to fail without multirun.yaml: 72 runs whose names all begin with the same twenty words."""
    given = ["experts=e16", "optimizer=muon", "trainer.max_steps=60", "optimizer.lr=0.002", "seed=3"]
    swept = ["experts=e8,e16", "optimizer=muon", "trainer.max_steps=60", "seed=1,2,3"]
    run_dir = folder(tmp_path, given, swept, {"optimizer.lr": "tag(log, interval(0.001, 0.1))"})
    assert run_name(run_dir, choices(run_dir)) == "e16 loss_free lr=0.002 s3"


def test_a_name_stays_short(tmp_path: Path) -> None:
    """W&B refuses names of more than 128 characters."""
    run_dir = folder(tmp_path, [f"model.setting_{i}={i}" for i in range(9)])
    assert run_name(run_dir, choices(run_dir)) == ("e16 loss_free setting_0=0 setting_1=1 setting_2=2 setting_3=3 +5")


def test_tags_are_the_choices_and_the_users_own(tmp_path: Path) -> None:
    """Groups left at null and Hydra's own are no choices; W&B refuses tags of more than 64 characters."""
    run_dir = folder(tmp_path, [])
    chosen = choices(run_dir)
    assert chosen == {"experts": "e16", "balancing": "loss_free", "optimizer": "muon"}
    assert tags(chosen, ["mine", "x" * 99]) == [
        "experts=e16", "balancing=loss_free", "optimizer=muon", "mine", "x" * 64,
    ]  # fmt: skip


def test_a_folder_without_hydras_files_has_no_name(tmp_path: Path) -> None:
    """The logger may be used from a notebook."""
    assert choices(tmp_path) == {} and run_name(tmp_path, {}) is None
