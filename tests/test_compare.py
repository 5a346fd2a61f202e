"""``s15erav3 compare`` as a user calls it, and its page in a real browser."""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

import s15erav3
from s15erav3.__main__ import main
from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.compare import with_folders
from s15erav3.comparison.groups import groups
from s15erav3.comparison.tables import grid
from s15erav3.comparison.terminal_table import broken, fitted
from s15erav3.errors import UserError
from s15erav3.figures.style import ON_DARK
from s15erav3.runs.reader import find_runs, read_run
from tests.browser import DESKTOP, PHONE, Page, opened
from tests.comparison.sweeps import CONFIG, write_metrics, write_run, write_sweep
from tests.terminal import Terminal
from tests.tiny import TINY


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "compare.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_table_csv_markdown_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The four tell the same."""
    for i, (name, bpb) in enumerate([("none", 1.5), ("none", 1.3), ("loss_free", 1.2), ("loss_free", 1.25)]):
        write_run(tmp_path / "s" / str(i), f"balancing={name}", f"seed={i % 2}", val_bpb=bpb, maxvio=0.5 + i)
    write_run(tmp_path / "s" / "9", "balancing=none", "seed=9", status="failed")
    assert main(["compare", str(tmp_path / "s")]) == 0
    out = capsys.readouterr().out
    markdown = (tmp_path / "s" / "compare.md").read_text()
    for text in (out, markdown):
        assert text.index("1.2250 (1.2000 to 1.2500)") < text.index("1.4000 (1.3000 to 1.5000)")
        assert "5 runs: 4 completed, 1 failed" in text and "2 of 3" in text and "ValueError: bad value" in text
    assert len(rows(tmp_path / "s")) == 5
    assert "1.2250 <small>(1.2000 to 1.2500)" in (tmp_path / "s" / "compare.html").read_text()
    assert not list((tmp_path / "s").glob("*.partial"))


def test_order_columns_and_place_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sort=-METRIC and descending=true say the same; output= keeps the sweep's folder as it is."""
    for i in range(3):
        write_run(tmp_path / "s" / str(i), f"optimizer.lr=0.{i + 1}", val_bpb=1.0 + i, maxvio=5.0 - i)
    for order in (["sort=-val/bpb"], ["descending=true"], ["sort=balance/maxvio_global"]):
        assert main(["compare", str(tmp_path / "s"), *order, f"output={tmp_path / 'o, p'}", "metrics=[val/bpb]"]) == 0
        assert [row["optimizer.lr"] for row in rows(tmp_path / "o, p")] == ["0.3", "0.2", "0.1"]
        assert "maxvio" not in capsys.readouterr().out.split("wrote")[0]
    assert not list((tmp_path / "s").glob("compare*"))


def test_overlapping_folders_count_each_run_once(tmp_path: Path) -> None:
    """A median of six runs, three of them twice, is no median of six."""
    for i in range(3):
        write_run(tmp_path / "s" / str(i), f"seed={i}", val_bpb=1.0 + i)
    write_run(tmp_path / "t" / "0", "seed=7", val_bpb=0.5)
    folders = [str(tmp_path / "s"), str(tmp_path / "s" / "1"), str(tmp_path / "t")]
    assert main(["compare", *folders]) == 0
    assert len(rows(tmp_path / "s")) == 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "needs a folder"),
        (["sort=val/bpb"], "needs a folder"),
        (["{tmp}/nowhere"], "is not a folder"),
        (["{tmp}/empty"], "no run below"),
        (["{tmp}/s", "sort=val/bbp"], "did you mean 'val/bpb'"),
        (["{tmp}/s", "metrics=[val/bpb,balance/maxvio]"], "balance/maxvio_global"),
        (["{tmp}/s", "rows=0"], "rows=0"),
        (["{tmp}/s", "unfinished=maybe"], "true or false"),
        (["{tmp}/s", "output={tmp}/file/x"], "cannot be written"),
        (["{tmp}/s", "color=red"], "not a setting"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    """Exit status 2, no traceback, nothing written."""
    write_run(tmp_path / "s" / "0", val_bpb=1.0, maxvio=0.5)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert main(["compare", *(a.format(tmp=tmp_path) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith("error: ") and "Traceback" not in error
    assert not list(tmp_path.rglob("compare.*"))


def test_folders_of_any_name_are_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal signs, commas and quotes are all found in the names of sweeps."""
    monkeypatch.chdir(tmp_path)
    for name in ("a=b", "it's, so"):
        write_run(tmp_path / name / "0", f"data.path={name}", val_bpb=1.0)
    assert main(["compare", "a=b", "it's, so"]) == 0
    assert len(rows(tmp_path / "a=b")) == 2
    assert with_folders(["--help"]) == ["--help"]
    with pytest.raises(UserError):
        with_folders(["-m"])


CASES: dict[str, list[dict[str, Any]]] = {
    "nothing but broken": [{"status": "broken"}],
    "only beginning": [{"status": "starting"}, {"status": "starting", "experts": "e16"}],
    "only failed": [{"status": "failed", "val_bpb": 1.5}, {"status": "killed", "experts": "e16"}],
    "only running": [{"status": "running", "val_bpb": 1.5}, {"status": "running", "experts": "e16"}],
    "one": [{"val_bpb": 1.5, "maxvio": 0.1}],
    "without figures": [{}, {"experts": "e16"}],
    "dense": [{"val_bpb": 1.5, "experts": "dense"}, {"val_bpb": 1.4}],
    "not a number": [{"val_bpb": float("nan"), "maxvio": float("nan")}, {"val_bpb": 1.4, "experts": "e16"}],
    "not causal": [{"val_bpb": 0.1, "maxvio": 0.0, "causal": False}],
    "words for figures": [{"val_bpb": "low", "maxvio": [1]}, {"val_bpb": True, "experts": "e16"}],
}


@pytest.mark.parametrize("case", CASES)
def test_any_state_of_a_sweep_is_compared(tmp_path: Path, case: str) -> None:
    """The first look comes when a sweep has just begun, and the last when half of it is broken."""
    for i, its in enumerate(CASES[case]):
        its = dict(its)
        run = write_run(tmp_path / str(i), f"experts={its.pop('experts', 'e8')}", **its)
        if its.get("status") == "broken":
            (run / "result.json").write_text("{")
        elif its.get("status") != "starting":
            write_metrics(run, rows=5, columns=0)
    assert main(["compare", str(tmp_path), "unfinished=true"]) == 0
    assert (tmp_path / "compare.html").stat().st_size > 10_000 and len(rows(tmp_path)) == len(CASES[case])


def test_a_narrow_terminal_loses_ranges_before_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed needs no range; headers break where words do."""
    for i in range(2):
        figures = {"perf/tokens_per_second_overall": 1234.0 + i, "params/active": 1000 + i}
        write_run(tmp_path / str(i), f"seed={i}", val_bpb=1.0 + i, maxvio=0.5 + i, **figures)
    (group,) = groups([read_run(run) for run in find_runs(tmp_path)])
    wide, narrow = (str(list(fitted(grid([group]), 9, width, ())[0].columns[3].cells)) for width in (200, 60))
    assert "(1,234 to 1,235)" in wide and "1,234" in narrow and "(" not in narrow.strip("[]'")
    assert broken("balance/dead_experts_global") == "balance/\ndead_experts_\nglobal"
    assert broken("n") == "n" and broken("") == ""


@pytest.mark.parametrize("columns", [80, 100, 120])
@pytest.mark.parametrize("kind", ["few", "many"])
def test_the_table_fits_a_terminal(columns: int, kind: str, tmp_path: Path) -> None:
    """No figure is cut or broken, and what has no room is named; settings go on in a second line."""
    for i in range(4):
        figures = {
            "perf/tokens_per_second": 81234.0 + i,
            "params/active": 1_000_000 * (i + 1),
            "balance/dead_experts_global": i,
        }
        many = [f"data.path=a_very_long_name_of_a_folder/and_of_a_file_{i}.txt"] if kind == "many" else []
        many += [f"optimizer.lr=0.00{i + 1}", f"schedule={('wsd', 'cosine')[i % 2]}"] if kind == "many" else []
        settings = [f"balancing={('none', 'loss_free')[i % 2]}", f"experts=e{8 * (1 + i // 2)}", *many]
        for seed in (1, 2):
            write_run(
                tmp_path / "s" / f"{i}_{seed}",
                *settings,
                f"seed={seed}",
                val_bpb=1.0 + i + seed / 10,
                maxvio=0.5 + i,
                **figures,
            )
    (tmp_path / "console.py").write_text(
        "import sys, s15erav3.compare as c\nfrom s15erav3.comparison.groups import BPB\n"
        "found = c.gather('s')\nc.show(found, 20, c.Path('s'))\n"
    )
    command = [sys.executable, str(tmp_path / "console.py")]
    package = str(Path(s15erav3.__file__).parent.parent)
    with Terminal(command, columns, cwd=tmp_path, PYTHONPATH=package) as terminal:
        text = terminal.end()
    assert terminal.status == 0, text
    lines = text.splitlines()
    assert lines[0] == "Comparison of s"
    table = lines[1 : next(i for i, line in enumerate(lines) if line.startswith(("too wide", "the same", "8 runs")))]
    assert len(table) < 16 + 8 * (kind == "many")
    for bpb in ("1.1500", "2.1500", "3.1500", "4.1500"):
        assert sum(bpb in line.split() for line in table) == 1
    left_out = text.partition("too wide")[2].partition("8 runs")[0]
    for metric, figures in {
        "params/active": ("1,000,000", "4,000,000"),
        "perf/tokens_per_second": ("81,234", "81,237"),
    }.items():
        assert all(sum(f in line.split() for line in table) == 1 for f in figures) or metric in left_out
    if (columns, kind) == (120, "few"):
        assert not left_out and "1.1500 (1.1000 to 1.2000)" in text


def real_config() -> dict[str, Any]:
    """The default config as training saves it."""
    OmegaConf.register_new_resolver("either", lambda a, b: b if a is None else a, replace=True)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = OmegaConf.to_container(compose("train"))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


@pytest.mark.slow
def test_a_thousand_runs_within_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process, imports and page included. Processor time, which on an idle machine is what the clock shows of one
    thread: other tests run beside this one."""
    for key, value in real_config().items():
        monkeypatch.setitem(CONFIG, key, value)
    write_sweep(tmp_path, 1000)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "s15erav3", "compare", str(tmp_path)]
    one_thread = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=True, capture_output=True, env=one_thread, cwd=conf_dir().parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert (tmp_path / "compare.html").stat().st_size < 10e6
    assert len(rows(tmp_path)) == 1000


@pytest.mark.slow
def test_a_real_sweep_and_a_run_that_failed_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What training writes is what compare reads."""
    jobs = ["balancing=none,loss_free", "trainer.max_steps=2", f"hydra.sweep.dir='{tmp_path}/s'"]
    assert main(["train", *TINY, "-m", *jobs]) == 0
    bad = [*TINY, "-m", "optimizer.lr=-1", f"hydra.sweep.dir='{tmp_path}/bad'"]
    assert main(["train", *bad]) == 2
    capsys.readouterr()
    assert main(["compare", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "3 runs: 2 completed, 1 failed" in out and "balance/" in out and "optimizer.lr" in out
    told = {row["status"]: row for row in rows(tmp_path) if row["balancing"] != "none"}
    assert told["completed"]["balancing"] == "loss_free" and float(told["completed"]["val/bpb"]) > 0
    assert told["failed"]["optimizer.lr"] == "-1" and "lr" in told["failed"]["reason"]


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every chapter: dense and routed groups, three seeds, failures, a run at work."""
    folder = tmp_path_factory.mktemp("sweep")
    write_sweep(folder, 100, rows=30, columns=0)
    for seed in range(3):
        run = write_run(folder / f"dense{seed}", "experts=dense", f"seed={seed}", val_bpb=1.5 + seed / 100)
        write_metrics(run, rows=30, columns=0, bpb=1.5)
    write_metrics(write_run(folder / "at work", "seed=99", status="running", val_bpb=1.6), rows=10, columns=0)
    assert main(["compare", str(folder)]) == 0
    return folder / "compare.html"


def column(page: Page, name: str) -> list[str]:
    """What the cells of a column of the table of groups sort by, of the rows that are shown."""
    names = page.js("[...document.querySelectorAll('table.sortable th')].map((th) => th.innerText.trim())")
    shown = "[...document.querySelectorAll('table.sortable tbody tr:not([hidden])')]"
    return page.js(f"{shown}.map((row) => row.cells[arguments[0]].dataset.key)", names.index(name))


def visible(page: Page) -> set[int]:
    """Groups that the first chart shows."""
    shown = "(t) => t.meta?.group !== undefined && t.visible !== false"
    return set(page.js(f"document.querySelector('.chart').data.filter({shown}).map((t) => t.meta.group)"))


@pytest.mark.slow
def test_the_page_in_a_browser(sweep_page: Path) -> None:
    """Charts draw, headers sort by click and keyboard, the filter reaches table and charts, on either paper."""
    with opened(sweep_page) as page:
        assert page.errors() == [] and page.requests() == [] and not page.overflows()
        assert page.js("[...document.querySelectorAll('.chart')].every((c) => c.querySelector('.main-svg path'))")
        by_bpb = column(page, "val/bpb")
        told = [float(text) for text in by_bpb if text]
        assert told == sorted(told) and len(told) > 30
        heads = page.driver.find_elements("css selector", "table.sortable th")
        head = next(th for th in heads if th.text.strip() == "val/bpb")
        assert head.get_attribute("aria-sort") == "ascending"
        head.find_element("css selector", "button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert [float(text) for text in column(page, "val/bpb") if text] == told[::-1]
        experts = next(th for th in heads if th.text.strip() == "experts").find_element("css selector", "button")
        experts.send_keys(Keys.ENTER)
        order = list(dict.fromkeys(column(page, "experts")))
        assert order == ["dense", "e8", "e16", "e32"], "numbers in names count"
        experts.send_keys(Keys.SPACE)
        assert list(dict.fromkeys(column(page, "experts"))) == order[::-1]
        everything = visible(page)
        page.driver.find_element("css selector", "select[name=experts]").send_keys("e16")
        assert set(column(page, "experts")) == {"e16"}
        some = visible(page)
        assert some < everything and len(some) == len(column(page, "experts"))
        page.driver.find_element("id", "paper").click()
        page.wait("document.documentElement.dataset.paper === 'dark'")
        page.wait("document.querySelector('.chart').data.some((t) => t.visible === false)")
        assert visible(page) == some, "a chart that is drawn anew keeps to the filter"
        page.driver.find_element("css selector", "select[name=experts]").send_keys("all")
        assert visible(page) == everything
        axis = "document.querySelector('#curves .chart').layout.yaxis.title.text"
        assert page.js(axis) == "val/bpb"
        page.driver.find_elements("css selector", "#curves select")[0].send_keys("MaxVio global")
        page.wait(f"{axis} === 'MaxVio global'")
        for over, title, last in (("FLOPs", "training FLOPs", 30 * 2048e6), ("wall clock", "training time (s)", 1.536)):
            Select(page.driver.find_elements("css selector", "#curves select")[1]).select_by_visible_text(over)
            page.wait(f"{axis.replace('yaxis', 'xaxis')} === '{title}'")
            ends = "document.querySelector('#curves .chart').data.filter((t) => t.meta?.group !== undefined)"
            assert max(page.js(f"{ends}.map((t) => Math.max(...t.x))")) == pytest.approx(last)
        page.screenshot("compare-dark")
        assert page.errors() == []


GROUPS = "JSON.parse(document.querySelector('.filter script').textContent)"
COLOURS = """[...document.querySelectorAll(arguments[0] + ' .chart')].flatMap((chart) => chart.data)
  .filter((t) => t.meta?.group !== undefined && t.legendgroup)
  .map((t) => [t.meta.group, t.marker?.color ?? t.line.color, t.line?.color ?? t.marker.color])"""
LEGEND = """Object.fromEntries(document.querySelector(arguments[0] + ' .chart').data
  .filter((t) => t.meta?.legend !== undefined && t.visible === true).map((t) => [t.name, t.marker.color]))"""


@pytest.mark.slow
def test_colours_tell_the_setting_that_the_reader_chooses(sweep_page: Path) -> None:
    """Every mark of both charts against the settings of its group. Catches a choice that reaches one chart alone, names
    of the last choice, and dark blue dots on dark paper."""
    with opened(sweep_page, dark=True) as page:
        groups = page.js(GROUPS)
        names = page.js("[...document.querySelector('.colour-by').options].map((o) => o.text)")
        assert sorted(names) == ["balancing", "experts", "group", "optimizer.lr"]
        assert page.js("document.querySelectorAll('.colour-by').length") == 2
        light = set(ON_DARK)
        for name in names:
            Select(page.driver.find_elements("css selector", ".colour-by")[-1]).select_by_visible_text(name)
            page.wait("document.documentElement.dataset.drawn")
            page.wait(f"document.querySelector('.colour-by').value === '{name}'")
            for place in ("#quality-against-balance", "#curves"):
                legend, marks = page.js(LEGEND, place), page.js(COLOURS, place)
                assert 1 < len(legend) <= 8 and not light & set(legend.values())
                assert len(marks) > 20 and all(one == other for _, one, other in marks)
                for group, colour, _ in marks if name != "group" else ():
                    assert legend[f"{name}={groups[group][name]}"] == colour, (name, place)
                if name == "group":
                    assert len({colour for _, colour, _ in marks}) == len(legend) == 8
        assert page.errors() == []


@pytest.mark.slow
def test_the_page_on_a_phone_and_on_light_paper(sweep_page: Path) -> None:
    """Tables and wide charts scroll inside themselves, and the filter is folded away."""
    with opened(sweep_page, PHONE) as page:
        assert not page.overflows() and page.errors() == []
        assert not page.js("document.querySelector('.filter').open")
        wide = "document.querySelector('#parallel-coordinates figure')"
        assert page.js(f"{wide}.scrollWidth > {wide}.clientWidth")
        page.screenshot("compare-phone")
        page.resize(*DESKTOP)
        page.wait("document.querySelector('.chart').querySelector('.main-svg').clientWidth > 1000")
        assert not page.overflows() and page.errors() == []
        page.screenshot("compare-desktop")


def test_differences_stand_in_every_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A clear effect of three paired seeds, one that is none, and what could not have been seen."""
    for seed in (1, 2, 3):
        for name, bpb in (("none", 1.5), ("aux", 1.4 + seed / 1000), ("bip", 1.5 + (-1) ** seed / 100)):
            folder = tmp_path / f"{name}{seed}"
            write_run(folder, f"balancing={name}", f"seed={seed}", val_bpb=bpb + seed / 10, maxvio=0.1)
    assert main(["compare", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for text in (printed, (tmp_path / "compare.md").read_text(), (tmp_path / "compare.html").read_text()):
        assert "difference to none; 2 comparisons" in text and "cannot be seen" in text
        assert "-0.1005 to -0.0955" in text and "better" in text and "no difference shown" in text
