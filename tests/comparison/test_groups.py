"""Runs grouped over seeds, against figures worked out by hand."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s15erav3.comparison.groups import BPB, MAXVIO, account, cautions, groups, metrics, ordered, pareto, states
from s15erav3.comparison.settings import ABSENT, natural, settings
from s15erav3.comparison.tables import counted, folded, grid, left_out, markdown, number, to_csv
from s15erav3.runs.reader import Run, find_runs, read_run
from tests.comparison.sweeps import write_run


def read(folder: Path) -> list[Run]:
    return [read_run(run) for run in find_runs(folder)]


def test_median_and_range_over_seeds_by_hand(tmp_path: Path) -> None:
    """A mean for a median, or one seed's figure for all, changes which strategy wins."""
    for seed, (bpb, maxvio) in enumerate([(1.5, 0.3), (1.2, 0.1), (1.4, 0.9), (1.3, 0.2)]):
        write_run(tmp_path / f"a{seed}", "balancing=none", f"seed={seed}", val_bpb=bpb, maxvio=maxvio)
    for seed, bpb in enumerate([1.1, 1.6, 1.15]):
        write_run(tmp_path / f"b{seed}", "balancing=loss_free", f"seed={seed}", val_bpb=bpb)
    found = ordered(groups(read(tmp_path)), BPB)
    assert [group.settings for group in found] == [{"balancing": "loss_free"}, {"balancing": "none"}]
    assert found[0].spread(BPB) == (1.15, 1.1, 1.6, 3)
    assert found[1].spread(BPB) == (pytest.approx(1.35), 1.2, 1.5, 4)
    assert found[1].spread(MAXVIO) == (pytest.approx(0.25), 0.1, 0.9, 4)
    assert math.isnan(found[0].spread(MAXVIO).median) and found[0].spread(MAXVIO).n == 0
    assert [g.settings["balancing"] for g in ordered(found, BPB, descending=True)] == ["none", "loss_free"]
    assert [g.settings["balancing"] for g in ordered(found, MAXVIO, descending=True)] == ["none", "loss_free"]


def test_a_value_that_is_not_finite_is_left_out_and_said(tmp_path: Path) -> None:
    """A NaN in a list that is sorted puts the median anywhere."""
    for seed, bpb in enumerate([1.5, math.nan, 1.3, math.inf]):
        write_run(tmp_path / str(seed), f"seed={seed}", val_bpb=bpb)
    (group,) = groups(read(tmp_path))
    assert group.spread(BPB) == (1.4, 1.3, 1.5, 2)
    assert any("without a finite val/bpb" in caution for caution in cautions([group]))


def test_runs_that_do_not_say_a_setting_have_its_default(tmp_path: Path) -> None:
    """Otherwise the default and the same value said aloud are two groups."""
    write_run(tmp_path / "0", "seed=1")
    write_run(tmp_path / "1", "seed=2", "experts=e8", "optimizer.lr=0.003", config={"optimizer.lr": 0.003})
    write_run(tmp_path / "2", "experts=e16", config={"experts.n_routed_experts": 16})
    write_run(tmp_path / "3", "optimizer.lr=1e-2", config={"optimizer.lr": 0.01})
    write_run(tmp_path / "4", "+experiment=original")
    found = {tuple(group.settings.values()): len(group.runs) for group in groups(read(tmp_path))}
    assert found == {
        ("e8", "0.003", "null"): 2,
        ("e8", "0.003", "original"): 1,
        ("e8", "0.01", "null"): 1,
        ("e16", "0.003", "null"): 1,
    }


def test_what_a_run_does_not_have_is_absent(tmp_path: Path) -> None:
    """A rate that no rule has is not the default rate."""
    write_run(tmp_path / "0", "balancing=loss_free", "balancing.rate=0.01")
    none = write_run(tmp_path / "1", "balancing=none")
    config = (none / ".hydra" / "config.yaml").read_text()
    (none / ".hydra" / "config.yaml").write_text(config.replace("  rate: 0.001\n", ""))
    assert [group.settings for group in groups(read(tmp_path))] == [
        {"balancing": "loss_free", "balancing.rate": "0.01"},
        {"balancing": "none", "balancing.rate": ABSENT},
    ]


def test_seed_places_and_watchers_do_not_part_runs(tmp_path: Path) -> None:
    """A sweep watched by W&B in another folder repeats the same experiment."""
    write_run(tmp_path / "0", "seed=1", "logger=csv")
    more = {"logger.wandb.project": "x", "run_dir": "there", "sweep.name": "b", "callbacks.telemetry.every_n_steps": 7}
    more |= {"callbacks.checkpoint.keep_every_n_steps": 5, "callbacks.samples.seed": 3, "report": False}
    write_run(tmp_path / "1", "seed=2", "logger=both", "sweep.name=b", "hydra.job.num=3", "callbacks=none", config=more)
    (group,) = groups(read(tmp_path))
    assert group.settings == {} and len(group.runs) == 2 and group.name == "all runs"


def test_groups_that_look_alike_are_told_apart_by_their_configs(tmp_path: Path) -> None:
    """A default that was edited between two sweeps makes two experiments of one command line."""
    write_run(tmp_path / "0", "experts=e8")
    write_run(tmp_path / "1", "experts=e8", config={"optimizer.weight_decay": 0.1, "model.hidden_size": 128})
    write_run(tmp_path / "2", "experts=e16")
    found = groups(read(tmp_path))
    assert len(found) == 3
    assert [list(group.settings.values()) for group in found] == [
        ["e8", "64", ABSENT], ["e8", "128", "0.1"], ["e16", "64", ABSENT]
    ]  # fmt: skip
    assert list(found[0].settings) == ["experts", "model.hidden_size", "optimizer.weight_decay"]


def test_a_setting_that_its_choice_decides_is_told_where_it_is_not_so(tmp_path: Path) -> None:
    """experts.n_routed_experts beside experts tells nothing new, unless the command line said so."""
    for i, n in enumerate((8, 16)):
        for lr in (1, 2):
            own = {"experts.n_routed_experts": n}
            write_run(tmp_path / f"{i}{lr}", f"experts=e{n}", f"optimizer.lr={lr}", config=own)
    write_run(tmp_path / "9", "experts=e16", "experts.n_routed_experts=4", "optimizer.lr=1")
    header, cells = folded(groups(read(tmp_path)))
    assert header == ["experts", "optimizer.lr"]
    assert sorted(cells) == [["e16", "1"], ["e16", "2"], ["e16 n_routed_experts=4", "1"], ["e8", "1"], ["e8", "2"]]


def test_rates_that_go_with_their_strategies_are_told(tmp_path: Path) -> None:
    """Each strategy at its tuned rate: the rate is decided by the strategy, and yet worth knowing."""
    for i, (name, rate) in enumerate([("loss_free", 0.01), ("proportional", 0.03)]):
        write_run(tmp_path / str(i), f"balancing={name}", f"balancing.rate={rate}")
    assert folded(groups(read(tmp_path))) == (["balancing"], [["loss_free rate=0.01"], ["proportional rate=0.03"]])


def test_only_completed_runs_count_unless_asked(tmp_path: Path) -> None:
    """A run in its first steps would ruin a median; the others are listed with their reason."""
    write_run(tmp_path / "0", "seed=0", val_bpb=1.0)
    for i, status in enumerate(("failed", "interrupted", "running", "killed", "starting"), start=1):
        write_run(tmp_path / str(i), f"seed={i}", status=status, val_bpb=9.0)
    (write_run(tmp_path / "6") / "result.json").write_text("{")
    runs = read(tmp_path)
    assert states(runs) == {"completed": 1, "running": 1, "interrupted": 3, "failed": 1, "broken": 1}
    (group,) = groups(runs)
    assert (len(group.runs), len(group.counted), counted(group)) == (6, 1, "1 of 6")
    assert group.spread(BPB) == (1.0, 1.0, 1.0, 1)
    told = {Path(folder).name: (state, account) for folder, state, account in left_out(runs, [group])}
    assert told["1"] == ("failed", "ValueError: bad value; step 100 of 100")
    assert told["3"] == ("running", "step 40 of 100")
    assert told["4"] == ("interrupted", "it was killed; step 40 of 100")
    assert told["6"][0] == "broken" and "0" not in told
    (more,) = groups(runs, unfinished=True)
    assert counted(more) == "2 of 6 *" and more.spread(BPB) == (5.0, 1.0, 9.0, 2)
    assert "3" in {Path(folder).name for folder, _, _ in left_out(runs, [more])}


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    """Two texts, two lengths, two commits, or a look into the future."""
    write_run(tmp_path / "0", "seed=0", val_bpb=1.0)
    assert cautions(groups(read(tmp_path))) == []
    write_run(tmp_path / "1", "seed=1", val_bpb=1.0, steps=50, git_commit="b")
    write_run(tmp_path / "2", "data=ipl", config={"data.name": "ipl"}, val_bpb=1.0)
    write_run(tmp_path / "3", "balancing=expert_choice", val_bpb=0.1, causal=False)
    said = cautions(groups(read(tmp_path)))
    for part in ("differ in steps", "different texts", "Not causal", "different commits"):
        assert sum(part in caution for caution in said) == 1, part
    shown = grid(groups(read(tmp_path)))
    assert sum(row[-1].endswith("†") for row in shown.rows) == 1


def brute(points: np.ndarray) -> list[bool]:
    """By the definition: no other point is as low in both and lower in one."""
    finite = ~np.isnan(points).any(axis=1)
    return [
        bool(finite[i]) and not any((q <= p).all() and (q < p).any() for q in points[finite])
        for i, p in enumerate(points)
    ]


numbers = st.one_of(st.integers(0, 5).map(float), st.just(math.nan), st.floats(-3, 3), st.just(math.inf))


@given(st.lists(st.tuples(numbers, numbers), max_size=12))
def test_the_pareto_front_is_that_of_brute_force(points: list[tuple[float, float]]) -> None:
    """Twins, points of one height and NaN are where a sweep over sorted points goes wrong."""
    table = np.array(points, dtype=float).reshape(-1, 2)
    assert pareto(points).tolist() == brute(table)


def test_values_sort_as_people_do() -> None:
    """e16 after e8, 10 after 9, what is not there first."""
    assert sorted(["e16", "e8", "10", "9", "1e-3", ABSENT, "none"], key=natural) == [
        ABSENT, "1e-3", "9", "10", "e8", "e16", "none"
    ]  # fmt: skip
    sorted(["a1", "1a", "a", "", "nan", "8x8", "é"], key=natural)


def test_figures_are_written_for_people() -> None:
    """Parameters with all their digits, bits per byte with four."""
    assert [number(BPB, 1.48958), number("params/active", 487104.0), number(MAXVIO, 0.110852), number(MAXVIO, 0.0)] == [
        "1.4896", "487,104", "0.1109", "0"
    ]  # fmt: skip
    assert number("x", math.nan) == ABSENT and number("perf/tokens_per_second", 3348.2) == "3,348"


def test_settings_of_some_choices_stand_beside_the_choice(tmp_path: Path) -> None:
    """Eight columns of dashes hide the figures."""
    for i, (name, rate) in enumerate([("loss_free", 0.01), ("loss_free", 0.1), ("none", None)]):
        given = [f"balancing.rate={rate}"] if rate else []
        run = write_run(tmp_path / str(i), f"balancing={name}", *given, "optimizer.lr=0.5", val_bpb=1.0)
        if rate is None:
            file = run / ".hydra" / "config.yaml"
            file.write_text(file.read_text().replace("  rate: 0.001\n", ""))
    found = groups(read(tmp_path))
    assert folded(found) == (["balancing"], [["loss_free rate=0.01"], ["loss_free rate=0.1"], ["none"]])
    assert grid(found).labels == ["loss_free rate=0.01", "loss_free rate=0.1", "none"]
    some = [group for group in found if group.settings["balancing"] == "loss_free"]
    assert folded(some)[0] == ["balancing", "balancing.rate"], "what all choices have in several values is a column"


def test_metrics_that_are_the_same_everywhere_are_no_columns(tmp_path: Path) -> None:
    """They are told once, below the table; those asked for by name stay."""
    for i in range(2):
        same = {"params/active": 1200, "perf/tokens_per_second_overall": 10.0 + i}
        write_run(tmp_path / str(i), f"optimizer.lr=0.{i + 1}", val_bpb=1.0, **same)
    found = groups(read(tmp_path))
    assert grid(found).header == ["optimizer.lr", "n", BPB, "perf/tokens_per_second_overall"]
    assert grid(found).same == {"params/active": "1,200"}
    assert grid(found, ["params/active"]).header == ["optimizer.lr", "n", "params/active"]


def test_the_csv_has_every_run_with_its_settings_and_metrics(tmp_path: Path) -> None:
    """One row for each run, broken ones too, numbers unrounded, text whole."""
    write_run(tmp_path / "0", "experts=e8", "seed=7", val_bpb=1.123456789, tokens=4096)
    write_run(tmp_path / "1", "experts=e16", status="failed", val_bpb="none")
    (write_run(tmp_path / "2") / "result.json").write_text("{")
    runs = read(tmp_path)
    rows = list(csv.DictReader(io.StringIO(to_csv(runs, groups(runs)))))
    assert [row["status"] for row in rows] == ["completed", "failed", "broken"]
    assert (rows[0]["experts"], rows[0]["seed"], rows[0]["val/bpb"], rows[0]["tokens"]) == (
        "e8",
        "7",
        "1.123456789",
        "4096",
    )
    assert (rows[0]["group"], rows[1]["group"], rows[2]["group"]) == ("1", "2", "")
    assert rows[1]["reason"] == "ValueError: bad value" and rows[2]["val/bpb"] == ""
    assert "seed" not in metrics(runs)


def test_markdown_survives_a_bar_in_a_cell() -> None:
    """Else the table has a column more than its header."""
    assert markdown(["a", "b"], [["x|y", "1"]], 1) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"


def test_no_runs_and_no_settings_are_empty_tables() -> None:
    """What a notebook begins with."""
    assert groups([]) == [] and settings([]) == [] and cautions([]) == [] and metrics([]) == []
    assert grid([]).rows == [] and to_csv([], []) == "folder,group,status,reason,seed,rounding\n"
    assert account(Run(Path(), "running", "", {"step": "x"}, {}, {})) == ""


def test_prompts_do_not_part_runs(tmp_path: Path) -> None:
    """Runs made before the data had prompts of their own learnt the same."""
    write_run(tmp_path / "0", "seed=1")
    write_run(tmp_path / "1", "seed=2", config={"data.prompts": ["Dear"]})
    (group,) = groups(read(tmp_path))
    assert group.settings == {} and len(group.runs) == 2


def test_baselines_beside_a_run_are_noted(tmp_path: Path) -> None:
    """Once for all runs that share them; an unusable file is passed over."""
    for seed, text in enumerate(['{"split": "val", "train_tokens": 9000, "bpb": {"3-gram": 1.25}}'] * 2 + ["[1]"]):
        folder = write_run(tmp_path / str(seed), f"seed={seed}", val_bpb=1.5)
        (folder / "baselines.json").write_text(text)
    notes = cautions(groups([read_run(folder) for folder in find_runs(tmp_path)]))
    assert [n for n in notes if "Baselines" in n] == [
        "Baselines in bits per byte: 3-gram 1.2500 (val, fitted on 9,000 tokens)."
    ]
