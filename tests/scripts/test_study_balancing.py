"""The study of balancing: its rule, its numbers worked out by hand, its report and its figures."""

from __future__ import annotations

import importlib
import math
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.model import count_parameters
from s15erav3.session.build import model_config
from tests.scripts.fake_study import write_run
from tests.tiny import MODEL, result

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "s15erav3" / "data" / "sample" / "commentary.txt"

OmegaConf.register_new_resolver("either", lambda a, b: b if a is None else a, replace=True)

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "scripts"))
    names = ("study_balancing", "study_runs", "study_figures", "study_balancing_report", "figure_labels")
    study, runs, figures, report, labels = (importlib.import_module(name) for name in names)


def arguments(tmp_path: Path, **changes: Any) -> Namespace:
    """Of the study script."""
    defaults = {"data": Path("/text of mine.txt"), "out": tmp_path, "model": "pico", "experts": ["e16"], "set": []}
    lengths = {"steps": 80, "tune_steps": 40, "tune_seed": 100, "seeds": 3, "strategies": ["none", "loss_free"]}
    return Namespace(**{**defaults, **lengths, **changes})


@pytest.fixture
def finished(tmp_path: Path) -> Any:
    """none, loss_free, quantile and aux_micro for three seeds, and the dense control."""
    args = arguments(tmp_path / "study", strategies=["none", "loss_free", "quantile", "aux_micro"])
    for job in study.tuning(args):
        value = float(job.folder.name)
        write_run(job.folder, job.settings, bpb=2.0 + value / 1000, maxvio=0.5 if value != 0.03 else 0.2)
    bpb = {
        "dense": (2.2, 2.1, 2.0),
        "none": (2.00, 2.02, 2.04),
        "loss_free": (1.98, 2.04, 2.02),
        "quantile": (2.0, 2.0, 2.0),
        "aux_micro": (1.99, 2.03, 2.06),
    }
    maxvio = {"none": 3.0, "loss_free": 0.09, "quantile": 0.2, "aux_micro": 0.4}
    for job in study.finals(args):
        name, seed = job.folder.parts[-2], int(job.folder.name)
        write_run(
            job.folder,
            job.settings,
            bpb=bpb[name][seed - 1],
            maxvio=None if name == "dense" else maxvio[name] + seed / 1000,
            batch=(3.0,) * 9 if name == "none" else (*[1.0] * (seed - 1), *[0.1] * (10 - seed)),
        )
    return runs.Study(args.out, args.experts, args.strategies, [1, 2, 3])


def cells(table: list[str]) -> dict[str, list[str]]:
    """Rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0]: row[1:] for row in rows}


def test_the_best_value_is_the_most_even_of_those_that_cost_little(tmp_path: Path) -> None:
    """The last one is the most even, and too dear; of the three others the third is."""
    dear = 2.0 * (study.TOLERANCE + 0.0001)
    almost = 2.0 * (study.TOLERANCE - 0.0001)
    tried = {0.003: (2.0, 0.9), 0.01: (2.001, 0.5), 0.03: (almost, 0.2), 0.1: (dear, 0.01)}
    assert tuple(tried) == study.STRATEGIES["loss_free"].values
    for value, (bpb, maxvio) in tried.items():
        with pytest.raises(SystemExit, match="not complete"):
            study.best_value(tmp_path, "e16", "loss_free")
        write_run(tmp_path / "tune" / "e16" / "loss_free" / f"{value:g}", [], bpb=bpb, maxvio=maxvio)
    assert study.best_value(tmp_path, "e16", "loss_free") == 0.03
    assert study.best_value(tmp_path, "e16", "none") is None


@pytest.mark.parametrize("change", [{}, {"steps": 81}, {"set": ["model.num_layers=3"]}, {"model": "nano"}])
def test_a_run_with_other_settings_is_not_done(tmp_path: Path, change: dict[str, Any]) -> None:
    """Hydra keeps a path in quotes; that alone makes no other run. A failed run is not done either."""
    args = arguments(tmp_path, strategies=["none"], seeds=1)
    for job in study.finals(args):
        kept = [f"data.path='{args.data}'" if s.startswith("data.path=") else s for s in job.settings]
        status = "failed" if "experts=dense" in job.settings else "completed"
        write_run(job.folder, [f'"{s}"' for s in kept], bpb=2.0, maxvio=1.0, status=status)
    args = arguments(tmp_path, strategies=["none"], seeds=1, **change)
    dense, none = study.finals(args)
    assert not study.is_done(dense)
    assert study.is_done(none) == (not change)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((1.0, 0.5, 0.4, 0.3, 0.3, 0.1, 0.1, 0.1, 0.1), 70),  # the means: 0.50, 0.32, 0.24, 0.18, 0.14
        ((0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1), 40),  # the first mean there is
        ((0.1, 0.1, 0.1, 0.1, 0.1, 1.0, 0.1, 0.1, 0.1), math.inf),  # it was even, and no longer is
        ((0.9, 0.2, 0.2, 0.2, 0.2, 0.1, 0.2, 0.2, 0.3), 50),  # twice the floor is enough
    ],
)
def test_steps_to_balance(tmp_path: Path, batch: tuple[float, ...], expected: float) -> None:
    """From that step on, for good."""
    write_run(tmp_path / "run", [], bpb=2.0, maxvio=1.0, batch=batch)
    assert runs.steps_to_balance(runs.Run(tmp_path / "run", {})) == expected


def test_spread_and_front() -> None:
    """Median, range, and points that none beats: (3, 3) is beaten by (2, 3), (4, 1) by (3.5, 1)."""
    assert runs.spread([3.0, 1.0, 2.5]) == (2.5, 1.0, 3.0)
    points = [(4.0, 1.0, "d"), (2.0, 3.0, "b"), (3.0, 3.0, "c"), (1.0, 5.0, "a"), (3.5, 1.0, "e")]
    assert [name for *_, name in runs.pareto(points)] == ["a", "b", "e"]


def test_main_table(finished: Any) -> None:
    """Of loss_free: differences to none -1.00, +0.99 and -0.98 %; even from 40, 50 and 60 on; churn but the last."""
    found = cells(report.main_table(finished, "e16"))
    assert found["loss_free"] == [
        "rate 0.03",
        "yes",
        "2.0200 (1.9800 to 2.0400)",
        "-0.98 (-1.00 to +0.99)",
        "0.092 (0.091 to 0.093)",
        "0",
        "50",
        "3.00",
        "1.23 M (0.45 M)",
    ]
    assert found["none"][:2] == ["", "yes"] and found["none"][3] == "" and found["none"][6] == "-"
    assert found["dense"][2:4] == ["2.1000 (2.0000 to 2.2000)", "+3.96 (-1.96 to +10.00)"]
    assert found["dense"][4:8] == ["", "", "", ""]


def test_tuning_table(finished: Any) -> None:
    """All values in their order; the chosen one is marked."""
    found = cells(report.tuning_table(finished, "e16"))
    assert found["loss_free"][1:] == [
        "no",
        "0.003: 2.0000, 0.500",
        "0.01: 2.0000, 0.500",
        "**0.03: 2.0000, 0.200**",
        "0.1: 2.0001, 0.500",
        "",  # others have one value more
    ]
    assert found["quantile"][1] == "no" and found["quantile"][2].startswith("**0: ")  # nothing lies below 0
    assert "none" not in found


def test_verdicts(finished: Any) -> None:
    """loss_free is the more even one; against aux_micro it is -0.50, +0.49 and -1.94 %."""
    even, worse, none, dense, front = report.verdicts(finished, "e16")
    assert "**Yes**: 0.092 (0.091 to 0.093) with loss_free" in even
    assert "**Yes**" in worse and "-0.50 % (-1.94 to +0.49: the seeds disagree) against aux_micro" in worse
    assert "none against dense" in none and "loss_free against dense" in dense
    assert "loss_free against dense: -2.86 % (-10.00 to +1.00: the seeds disagree)" in dense
    assert front.endswith(": loss_free, quantile.")


def test_a_difference_in_words() -> None:
    """Whether seeds agree, and whether it is more than rounding."""
    assert report.difference((1.0, 0.1, 2.0)) == "+1.00 % (+0.10 to +2.00: worse in every seed)"
    assert report.difference((-0.2, -0.3, -0.1)) == (
        "-0.20 % (-0.30 to -0.10: better in every seed, all within rounding)"
    )


def test_report_and_figures_of_a_finished_study(finished: Any, tmp_path: Path, run_report: Any) -> None:
    """Nothing is missing; four pictures, the same to the byte when they are drawn again, and not large."""
    assert finished.missing() == {}
    page = run_report(finished.out, "--strategies", *finished.strategies, "--experts", "e16", out=tmp_path / "one")
    assert "--data text of mine.txt --model pico" in page and "--tune-steps 80 --steps 80" in page
    assert str(tmp_path) not in page and "Not run yet" not in page
    drawn = sorted((tmp_path / "one" / "figures").iterdir())
    assert [file.name for file in drawn] == [
        f"balancing_{name}.svg" for name in ("churn", "loads", "maxvio", "tradeoff")
    ]
    run_report(finished.out, "--strategies", *finished.strategies, "--experts", "e16", out=tmp_path / "two")
    for file in drawn:
        assert file.read_bytes() == (tmp_path / "two" / "figures" / file.name).read_bytes()
        assert file.stat().st_size < 150_000


def test_report_of_a_study_that_has_only_begun(tmp_path: Path, run_report: Any) -> None:
    """One run of the tuning, one final run of one strategy, one that failed: told as far as it goes."""
    args = arguments(tmp_path / "study")
    first = next(iter(study.tuning(args)))
    write_run(first.folder, first.settings, bpb=2.0, maxvio=0.5)
    page = run_report(args.out, out=tmp_path)
    assert "Nothing has run yet." in page and "nothing can be said" in page and not list(tmp_path.glob("figures/*"))
    share = study.common(args, args.steps, 20)
    write_run(args.out / "final" / "e16" / "loss_free" / "2", share, bpb=2.0, maxvio=0.5)
    write_run(args.out / "final" / "e16" / "loss_free" / "3", share, bpb=2.0, maxvio=0.5, status="failed")
    page = run_report(args.out, out=tmp_path)
    assert "- tune/e16/loss_free: 0.01, 0.03, 0.1\n" in page and "- final/e16/loss_free: 1, 3\n" in page
    assert "| loss_free |  | yes | 2.0000 (2.0000 to 2.0000) |  | 0.500 (0.500 to 0.500) |" in page
    assert len(list(tmp_path.glob("figures/*.svg"))) == 4


def test_report_of_no_study_at_all(tmp_path: Path, run_report: Any) -> None:
    """Said in one sentence."""
    with pytest.raises(SystemExit, match="2"):
        run_report(tmp_path / "nowhere", out=tmp_path)


@pytest.fixture
def run_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The report script; returns the page that it wrote, which is also what it printed."""

    def call(folder: Path, *options: str, out: Path) -> str:
        monkeypatch.setattr(sys, "argv", ["study_balancing_report.py", str(folder), "--out", str(out), *options])
        report.main()
        page = (out / "balancing_tables.md").read_text()
        assert page in capsys.readouterr().out
        return page

    return call


def test_labels_do_not_cover_each_other() -> None:
    """Six names for points that lie on top of each other."""
    figure, axis = figures.plt.subplots()
    axis.scatter([1.0] * 6, [1.0] * 6)
    labels.place(axis, [labels.Label(1.0, 1.0, f"a long name {n}", "black") for n in range(6)])
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(one.overlaps(two) for n, one in enumerate(boxes) for two in boxes[:n])
    figures.plt.close(figure)


def composed(setting: str, name: str) -> Any:
    """The config of a strategy's run."""
    value = next(iter(study.STRATEGIES[name].values), None)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        choice = study.chosen(name, setting, value)
        return compose("train", ["model=pico", f"experts={setting}", *choice, "+run_dir_=x", "run_dir=x"])


@pytest.mark.parametrize("name", study.STRATEGIES)
def test_every_strategy_is_a_fair_rival(name: str) -> None:
    """Same parameters, total and active (switch's shared expert is wider); the report knows who is not causal."""
    for setting in ("e16", "e64"):
        cfg, plain = composed(setting, name), composed(setting, "none")
        ours, theirs = (count_parameters(model_config(c, 2048)) for c in (cfg, plain))
        assert ours.active == pytest.approx(theirs.active, rel=0.02)
        assert ours.total == pytest.approx(theirs.total, rel=0.05)
        assert get_class(cfg.balancing._target_).causal == (name not in runs.NOT_CAUSAL)
    assert name in figures.FAMILY


@pytest.mark.slow
def test_the_study_runs_and_does_nothing_twice(tmp_path: Path) -> None:
    """Tiny, end to end, and then the report of it."""
    tiny = [*MODEL, "data.vocab_size=512", "data.sequence_length=32", "data.eval_batch_size=64"]
    short = ["--steps", "4", "--tune-steps", "2", "--seeds", "1", "--workers", "1"]
    parts = ["--strategies", "loss_free", "none", "--experts", "e16"]
    command = ["--data", str(BUNDLED), "--out", str(tmp_path / "study"), *short, *parts]
    command += [word for setting in tiny for word in ("--set", setting)]
    first, second = (script("study_balancing.py", *command) for _ in range(2))
    assert "tuning: 4 runs, 4 to do" in first and "study: 3 runs, 3 to do" in first
    assert "tuning: 4 runs, 0 to do" in second and "study: 3 runs, 0 to do" in second
    assert result(tmp_path / "study" / "final" / "e16" / "loss_free" / "1")["steps"] == 4
    page = script("study_balancing_report.py", str(tmp_path / "study"), *parts, "--seeds", "1", "--out", str(tmp_path))
    assert "Not run yet" not in page and re.search(r"\| loss_free \| rate [\d.]+ \| yes \| \d", page)
    assert len(list(tmp_path.glob("figures/*.svg"))) >= 3  # churn may be 0 in so few steps, and is then left out


def script(name: str, *words: str) -> str:
    """What a script prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "scripts" / name), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
