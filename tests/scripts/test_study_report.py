"""scripts/study_report.py on invented records with known effects, and scripts/study_check.py against it."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
CHURN = ("step_churn", "weight_churn", "churn")
EFFECTS = {"none": 0.0, "loss_free": 0.01, "quantile": 0.0, "aux_global": 0.0, "dsv3": 0.01, "dense": 0.03}


def invented(folder: Path, seeds: int = 5) -> None:
    """Records whose arms differ from ``none`` by the relative ``EFFECTS``, with scatter of seeds and documents."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(2_000, 20_000, 60)
    documents = draw.normal(0.8, 0.05, 60)
    lines = []
    for arm, effect in EFFECTS.items():
        for seed, rounding in [*((s, 0) for s in range(1, seeds + 1)), (1, 1), (1, 2)]:
            shift = 1 + effect + 0.001 * np.sin(7 * seed) + draw.normal(0, 0.0003)
            nll = sizes * (documents * shift + draw.normal(0, 0.001, 60))
            maxvio = {} if arm == "dense" else {"balance/maxvio_global": 3.0 if arm == "none" else 0.1 + 0.01 * seed}
            settings = {"experiment": f"study/{arm}", "seed": str(seed)} | (
                {"rounding": str(rounding)} if rounding else {}
            )
            lines.append(
                _record(arm, seed, settings, 1.15 * shift, maxvio, {"nll": nll.tolist(), "bytes": sizes.tolist()})
            )
    (folder / "study_all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tuned = [
        _record("quantile", 100, {"balancing.ema": str(ema)}, 1.3 + (ema - 0.5) ** 2, {"balance/maxvio_global": 0.2})
        for ema in (0.0, 0.5, 0.9)
    ]
    (folder / "tune_quantile.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tuned))
    explored = [
        _record(strategy, seed, {"balancing": strategy} | experts, 1.2, {"balance/maxvio_global": maxvio * seed}, test)
        for experts in ({}, {"experts": "e64"})
        for strategy, maxvio in (("none", 2.0), ("hash", 0.05))
        for seed in (1, 2, 3)
        for test in [{"nll": [90.0 + seed, 80.0], "bytes": [100, 90]}]
    ]
    (folder / "explore_seeds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in explored))
    again = json.loads(json.dumps(lines[0]))
    again["test"]["nll"][3] *= 1.02
    (folder / "repeat_none.jsonl").write_text(json.dumps(again) + "\n")
    (folder / "baselines.json").write_text(json.dumps({"split": "test", "bpb": {"4-gram": 1.17, "xz": 2.5}}))


def _record(
    arm: str,
    seed: int,
    settings: dict[str, str],
    bpb: float,
    maxvio: dict[str, float],
    test: dict[str, Any] | None = None,
) -> dict[str, Any]:
    dead = {"balance/dead_experts_global": 0.0} if maxvio else {}
    curves = {"step": [300.0, 600.0], "val/bpb": [2 * bpb, bpb], **{key: [1.0, value] for key, value in maxvio.items()}}
    record = {"arm": arm, "seed": seed, "settings": settings, "val/bpb": bpb, **maxvio, **dead, "validations": curves}
    record |= {"max_steps": 600, "steps": 600, "tokens": 1.2e6, "params/total": 9_000, "params/active": 4_000}
    record |= {"epochs": 1.5}
    if maxvio:
        churn = {f"balance/{key}": [0.01 * at + 0.001 * seed, 0.0] for at, key in enumerate(CHURN, start=1)}
        cost = np.random.default_rng(seed).normal(0.001, 0.001, (3, 16))
        load = np.random.default_rng(seed).integers(0, 9, (3, 16))  # with ties, as of dead experts
        needs = [{"domain": d, "change": 0.006, "other": 0.002, "half": 0.001} for d in ("all", "part")]
        known = {f"specialisation/{d}/share_of_expert": 0.01 * seed for d in ("token", "part", "event")}
        record |= {"validations": curves | churn, "last_load": load.tolist()}
        if seed == 5:
            record["experts"] = {"ablation/change": cost.tolist(), "ablation/domains": needs, **known}
    record |= {"versions": {"torch": "2.13.0"}, "git_commit": "abc", "device": "a CPU (1 thread)"}
    return record | ({"test": test} if test else {})


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    invented(folder)
    made = run("study_report.py", "--data", str(folder), "--out", str(folder))
    assert made.returncode == 0, made.stderr
    return folder


def test_planted_effects_are_found_and_no_others(study: Path) -> None:
    page = (study / "study_tables.md").read_text()
    rows = {line.split(" | ")[0]: line for line in page.splitlines() if line.startswith("| `")}
    for name in ("`loss_free` to `none`", "`dsv3` to `none`"):
        assert "| costs |" in rows[f"| {name}"]
    assert "| gains |" in rows["| `loss_free` to `dense`"]
    for name in ("`quantile` to `none`", "`aux_global` to `none`", "`dsv3` to `loss_free`"):
        assert "| none above 0." in rows[f"| {name}"]
    assert "**0.5**" in page and page.count("**0") == 1
    assert "30 runs and 12 noise runs" in page
    assert [line.split(" | ")[:3] for line in page.splitlines() if line.startswith("| e")][1:] == [
        ["| e16", "`hash`", "3"], ["| e16", "`none`", "3"], ["| e64", "`hash`", "3"], ["| e64", "`none`", "3"]
    ]  # fmt: skip
    assert "| 0.100 (0.050 to 0.150) |" in page


def test_figures_are_the_same_each_time(study: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        data, pictures = (importlib.import_module(f"study_{part}") for part in ("data", "pictures"))
        again = {file.name: file.read_bytes() for file in pictures.draw(data.read(study), tmp_path)}
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    assert len(again) == 6 and again == {file.name: file.read_bytes() for file in (study / "figures").iterdir()}


@pytest.mark.slow
def test_the_check_agrees_and_finds_a_changed_figure(study: Path, tmp_path: Path) -> None:
    """Any of the figures: each cell that holds a number is changed in its last digits, one page for each table."""
    right = study / "study_tables.md"
    said = run("study_check.py", "--data", str(study), "--tables", str(right))
    assert (said.returncode, ", 0 differ" in said.stdout) == (0, True), said.stdout
    for row, old, new in (
        ("`quantile` to `none`", " to ", "1 to "),
        ("`quantile` | 5", " ± ", "9 ± 9"),
        ("`dsv3` | 3", "| 0.", "| 0.9"),
        ("`dsv3` | 5 | 1.30", "1.30", "1.31"),
        ("`dsv3` | 5 | 5.00", "| 5.00 | 5.00", "| 5.00 | 5.01"),
        ("4-gram", "1.17", "1.18"),
        ("`dsv3` | 600", "9,000", "9,001"),
        ("`none` | 1 |", "1.1", "1.2"),
        ("`quantile` | `balancing.ema` | 0.9", "1.46", "1.45"),
        ("e64 | `hash`", "(0.050 ", "(0.051 "),
        ("e16 | `none` | 3", "| 3 |", "| 2 |"),
    ):
        lines = [s.replace(old, new) if row in s else s for s in right.read_text().splitlines()]
        if row.startswith("`quantile` to"):
            lines = [
                s.replace("| +", "| +9").replace("| -", "| -9") if row in s else s
                for s in right.read_text().splitlines()
            ]
        wrong = tmp_path / "wrong.md"
        wrong.write_text("\n".join(lines) + "\n")
        assert wrong.read_text() != right.read_text(), row
        told = run("study_check.py", "--data", str(study), "--tables", str(wrong))
        assert told.returncode == 1 and "differs: " in told.stdout, row


def test_nothing_to_report(tmp_path: Path) -> None:
    told = run("study_report.py", "--data", str(tmp_path))
    assert told.returncode == 1 and "study_records.py writes them" in told.stderr


def test_the_study_page_repeats_its_tables_faithfully() -> None:
    """Each row of docs/balancing.md that begins with an arm or a comparison stands in the generated page."""
    tables = set((ROOT / "docs" / "study_tables.md").read_text().splitlines())
    page = (ROOT / "docs" / "balancing.md").read_text().splitlines()
    rows = [line for line in page if line.startswith(("| `", "| e16", "| e64"))]
    assert len(rows) > 20 and not set(rows) - tables


@pytest.mark.parametrize("page", ["README.md", "docs/balancing.md"])
def test_intervals_in_the_text_are_those_of_the_tables(page: str) -> None:
    """All that look like a mean with its interval, or like an interval with signs."""
    form = re.compile(r"[-+]?\d+\.\d+ ± \d+\.\d+|[-+]\d+\.\d\d to [-+]\d+\.\d\d(?=[ )])")
    text, tables = ((ROOT / name).read_text() for name in (page, "docs/study_tables.md"))
    found = form.findall(text)
    assert len(found) > 8 and not [its for its in found if its not in tables]


@pytest.mark.slow
def test_the_tables_are_those_of_the_records(tmp_path: Path) -> None:
    """``make study-report`` changes nothing, so tables and figures are those of docs/data."""
    made = run("study_report.py", "--data", str(ROOT / "docs/data/study"), "--out", str(tmp_path))
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "study_tables.md").read_text() == (ROOT / "docs" / "study_tables.md").read_text()
    drawn, kept = tmp_path / "figures", ROOT / "docs" / "figures"
    assert {f.name: f.read_bytes() for f in drawn.iterdir()} == {f.name: f.read_bytes() for f in kept.glob("study_*")}
    said = run("study_check.py", "--data", str(ROOT / "docs/data/study"), "--tables", str(tmp_path / "study_tables.md"))
    assert said.returncode == 0, said.stdout
