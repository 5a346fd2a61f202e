"""``s15erav3 report``: runs in every state, and the page itself in a real browser."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from selenium.webdriver.common.keys import Keys

from s15erav3.__main__ import main
from s15erav3.callbacks.run_state import collect_rng
from s15erav3.session.report import write_report
from tests.browser import DESKTOP, PHONE, Page, opened
from tests.tiny import rows, train

CONFIG = """
seed: 3
model: {num_layers: 3}
experts: {n_routed_experts: 2, num_experts_per_tok: 1, topk_method: noaux_tc}
balancing: {_target_: s15erav3.balancing.LossFree}
"""
DENSE = "model: {num_layers: 3}\nexperts: {n_routed_experts: null}\n"
METRICS = "step,train/loss,tokens,val/loss,perf/mfu\n1,5.0,100,,\n2,4.0,200,,\n2,,200,4.5,\n"
LINE = {
    "step": 1,
    "tokens": 100,
    "layers": [1],
    "load": [[30, 70]],
    "bias": [[0.1, -0.1]],
    "update": [[0.1, -0.1]],
}


def folder(tmp_path: Path, config: str = CONFIG, **files: str) -> Path:
    """A run's folder with a config and other files, ``__`` in whose names is a full stop."""
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text(config)
    (run / ".hydra" / "overrides.yaml").write_text("- seed=3\n- data.path='a b.txt'\n")
    for name, text in files.items():
        (run / name.replace("__", ".")).write_text(text)
    return run


def text_of(file: Path) -> str:
    """What the page says, without scripts and marks."""
    text = re.sub(r"<(script|style).*?</\1>", "", file.read_text(), flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def sections(file: Path) -> list[str]:
    """Titles of the chapters."""
    return re.findall(r"<h2>(.*?)</h2>", file.read_text())


def progress(**more: Any) -> str:
    """``progress.json`` of this very process."""
    now = {"step": 2, "max_steps": 10, "pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    return json.dumps(now | more)


STATES = {
    "running": ({"progress__json": progress()}, ["still training", "step 2 of 10", "update this page"]),
    "killed": ({"progress__json": progress(pid=2**22 + 1)}, ["was interrupted", "it was killed", "step 2 of 10"]),
    "without a trace": ({}, ["was interrupted"]),
    "failed": (
        {"result__json": json.dumps({"status": "failed", "reason": "ValueError: <b> & co", "steps": 2})},
        ["The run failed. Reason: ValueError: <b> & co"],
    ),
    "diverged": (
        {"result__json": '{"status": "failed", "reason": "nan", "val/bpb": NaN, "train/loss": null}'},
        ["val/bpb nan"],
    ),
    "broken": ({"result__json": '{"status": "comp'}, ["A file of the run cannot be read.", "result.json"]),
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_a_page_that_says_so(tmp_path: Path, state: str) -> None:
    """One odd file, and nothing at all would be shown of a run that took a night."""
    files, said = STATES[state]
    lines = json.dumps(LINE) + "\n" + json.dumps(LINE | {"step": 2}) + '\n{"step": 3, "tok'
    file = write_report(folder(tmp_path, metrics__csv=METRICS + "3,2.", balance__jsonl=lines, **files))
    text = text_of(file)
    for phrase in [*said, "Loss", *([] if state == "broken" else ["data.path a b.txt"])]:
        assert phrase in text
    assert "The experts' specialisation cannot be shown" in text and "no checkpoint" in text
    assert "resume=" not in text and "evaluate" not in text  # there is no checkpoint to go on from
    assert file == tmp_path / "run" / "report.html"
    assert sections(file)[:4] == ["Summary", "Balance", "Learning", "Specialisation"]


def test_without_anything_logged_the_page_says_that(tmp_path: Path) -> None:
    """A run in its first minute has neither metrics nor loads."""
    text = text_of(write_report(folder(tmp_path)))
    assert "Nothing has been logged yet" in text and "No load has been logged yet" in text


def test_a_config_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Catches a traceback where a disk was full."""
    assert "A file of the run cannot be read." in text_of(write_report(folder(tmp_path, config="a: [1")))


def test_a_dense_run_has_no_experts_to_show(tmp_path: Path) -> None:
    """Empty chapters about experts would look like a fault."""
    file = write_report(folder(tmp_path, config=DENSE, metrics__csv=METRICS))
    assert sections(file) == ["Summary", "Learning", "Settings and commands"] and "3 layers, dense" in text_of(file)


def test_the_same_command_writes_the_page_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While a run is at work one looks again and again; a claim on the folder or a file in the way would stop it."""
    run = folder(tmp_path, progress__json=progress())
    assert main(["report", str(run)]) == 0
    (run / "progress.json").write_text(progress(step=7))
    assert main(["report", str(run)]) == 0
    assert "step 7 of 10" in text_of(run / "report.html")
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().err
    assert sorted(p.name for p in run.iterdir()) == [".hydra", "progress.json", "report.html"]


def test_mistakes_are_told_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches tracebacks, and a page about a folder that is no run."""
    run = folder(tmp_path)
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([], "report needs a run's folder first"),
        (["max_tokens=3"], "report needs a run's folder first"),
        ([str(tmp_path / "nowhere")], "is not a folder"),
        ([str(tmp_path / "empty")], "has no .hydra/config.yaml"),
        ([str(tmp_path)], f"holds 1 runs; give one of them, such as {run}"),
        ([str(run), "max_tokens=-1"], "max_tokens=-1 must be a whole number, at least 0"),
        ([str(run), f"output={tmp_path}/not/there.html"], "cannot be written"),
        ([str(run), f"output={tmp_path}"], "cannot be written"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
    assert not list(tmp_path.rglob("*.html*"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of eight steps, and its page."""
    run = tmp_path_factory.mktemp("report") / "run"
    assert train("trainer.max_steps=8", "experts=e8", run_dir=run) == 0
    assert main(["report", str(run), "max_tokens=8192"]) == 0
    return run


@pytest.fixture(scope="module")
def desktop(run_dir: Path) -> Iterator[Page]:
    """The page on a desktop's screen, light."""
    with opened(run_dir / "report.html", DESKTOP) as page:
        yield page


@pytest.mark.slow
def test_the_page_draws_everything_and_fetches_nothing(desktop: Page, run_dir: Path) -> None:
    """Catches a chart that stays empty, a script that breaks, a font from elsewhere."""
    desktop.screenshot("report-desktop-light-folded")
    assert sections(run_dir / "report.html") == [
        "Summary",
        "Balance",
        "Learning",
        "What the model wrote",
        "Specialisation",
        "Co-activation",
        "Text coloured by expert",
        "Settings and commands",
    ]
    desktop.unfold()
    desktop.screenshot("report-desktop-light")
    assert desktop.js("document.querySelectorAll('.chart').length") >= 17
    assert desktop.undrawn() == []
    assert (desktop.errors(), desktop.requests(), desktop.overflows()) == ([], [], False)
    assert (run_dir / "report.html").stat().st_size < 7e6


SHOWN = "document.getElementById(arguments[0]).data[0].z"
CHART = "[...document.querySelectorAll('figure')].find((f) => f.textContent.includes(arguments[0]))"


FOLDED = "[...document.querySelectorAll('section > details')].map((d) => d.open)"
SIZES = "[...document.querySelectorAll(arguments[0] + ' .chart')].map((c) => c._fullLayout?.width ?? 0)"


@pytest.mark.slow
def test_what_is_folded_away_opens_by_keyboard_click_and_link(run_dir: Path) -> None:
    """Catches charts that are drawn without a size while nobody sees them, in the old width, or on the old paper."""
    with opened(run_dir / "report.html", DESKTOP) as page:
        assert page.js(FOLDED) == [False] * 5
        assert page.undrawn() != [] and not any(page.js(SIZES, "#specialisation"))
        page.tab_to("#specialisation > details > summary")
        page.press(Keys.ENTER)
        page.wait("document.querySelectorAll('#specialisation .js-plotly-plot').length >= 3")
        page.wait("document.documentElement.dataset.drawn")
        inside = "document.querySelector('#specialisation .chart').clientWidth"
        wide = page.js(inside)
        assert page.js(SIZES, "#specialisation")[0] == wide > 400
        page.press(Keys.ENTER)
        page.js("document.getElementById('paper').click()")
        page.resize(*PHONE)
        page.wait("document.documentElement.dataset.drawn")
        page.press(Keys.ENTER)  # again: on the new paper, in the new width
        page.wait(f"document.documentElement.dataset.drawn && {inside} < 400")
        page.wait(f"document.querySelector('#specialisation .chart')._fullLayout.width === {inside}")
        assert (
            page.js("document.querySelector('#specialisation .chart').layout.template.layout.font.color") == "#e4e4e7"
        )
        page.js("document.querySelector('nav a[href=\"#co-activation\"]').click()")
        page.wait("document.querySelector('#co-activation .js-plotly-plot')")
        page.driver.find_element("css selector", "#text-coloured-by-expert > details > summary").click()
        assert page.js(FOLDED) == [False, True, True, True, False]
        assert page.errors() == [] and not page.overflows()


@pytest.mark.slow
def test_the_slider_over_samples_shows_what_was_written_then(desktop: Page, run_dir: Path) -> None:
    """Every step by the keyboard, against samples.jsonl, then all of them."""
    desktop.unfold()
    written: dict[int, list[str]] = {}
    for row in rows(run_dir / "samples.jsonl"):
        written.setdefault(row["step"], []).append((row["prompt"] or "(without a prompt)\n") + row["text"])
    assert list(written) == [4, 8]
    seen = "[...document.querySelectorAll('.samples .at:not([hidden]) blockquote')].map((b) => b.textContent)"
    assert desktop.js(seen) == written[8]
    desktop.js("document.activeElement.blur()")
    desktop.tab_to(".samples input[type=range]")
    for key, step in ((Keys.HOME, 4), (Keys.ARROW_RIGHT, 8)):
        desktop.press(key)
        assert desktop.js(seen) == written[step]
        assert desktop.js("document.querySelector('.samples output').textContent") == str(step)
    desktop.tab_to(".samples input[type=checkbox]")
    desktop.press(Keys.SPACE)
    assert desktop.js(seen) == [*written[4], *written[8]]
    desktop.press(Keys.SPACE)
    assert desktop.js(seen) == written[8] and desktop.errors() == []


@pytest.mark.slow
def test_the_slider_shows_the_loads_and_biases_of_its_step(desktop: Page, run_dir: Path) -> None:
    """Every position of the slider, by the keyboard alone, against balance.jsonl."""
    logged = rows(run_dir / "balance.jsonl")
    assert len(logged) == 5
    for title, key in (("Load of each expert", "load"), ("Bias of each expert", "bias")):
        name = desktop.js(f"{CHART}.querySelector('.chart').id", title)
        desktop.js("document.activeElement.blur()")
        desktop.js(f"{CHART}.querySelector('input').id = 'here'", title)
        desktop.tab_to("#here")
        desktop.press(Keys.HOME)
        for line in logged:
            values = np.array(line[key], dtype=float)
            if key == "load":
                values /= values.mean(axis=-1, keepdims=True)
            told = desktop.js(f"{CHART}.querySelector('output').textContent", title)
            assert told == str(line["step"])
            assert np.allclose(np.array(desktop.js(SHOWN, name)), values, atol=6e-3 if key == "load" else 6e-4)
            desktop.press(Keys.ARROW_RIGHT)
        desktop.js("document.getElementById('here').removeAttribute('id')")
    assert desktop.errors() == []


@pytest.mark.slow
def test_selects_choose_by_keyboard(desktop: Page, run_dir: Path) -> None:
    """Catches a select that only a mouse moves, and figures that belong to another layer."""
    logged = rows(run_dir / "balance.jsonl")
    for title, key in (("Loads over time", "load"), ("Biases over time", "bias")):
        name = desktop.js(f"{CHART}.querySelector('.chart').id", title)
        desktop.js("document.activeElement.blur()")
        desktop.js(f"{CHART}.querySelector('select').id = 'here'", title)
        desktop.tab_to("#here")
        for layer in range(len(logged[0]["layers"])):
            values = np.array([line[key][layer] for line in logged], dtype=float)
            if key == "load":
                values /= values.mean(axis=-1, keepdims=True)
            drawn = desktop.js("document.getElementById(arguments[0]).data.map((t) => t.y)", name)
            assert np.allclose(np.array(drawn).T, values, atol=6e-3 if key == "load" else 6e-4)
            desktop.press(Keys.ARROW_DOWN)
        desktop.js("document.getElementById('here').removeAttribute('id')")
    figure = f"{CHART}.querySelectorAll('.text:not([hidden])')"
    before = desktop.js(f"[...{figure}].map((t) => t.textContent)", "The vocabulary of each expert")
    desktop.js(f"{CHART}.querySelector('select').focus()", "The vocabulary of each expert")
    desktop.press(Keys.ARROW_DOWN)
    after = desktop.js(f"[...{figure}].map((t) => t.textContent)", "The vocabulary of each expert")
    assert len(before) == len(after) == 1 and before != after
    chart = desktop.js(f"{CHART}.querySelector('.chart').id", "Share of each expert by value")
    drawn = []
    for select in (0, 1):  # another domain has other values, then another layer the same ones
        drawn.append(desktop.js("((d) => [d.y, d.z])(document.getElementById(arguments[0]).data[0])", chart))
        desktop.js(f"{CHART}.querySelectorAll('select')[{select}].focus()", "Share of each expert by value")
        desktop.press(Keys.ARROW_DOWN)
    drawn.append(desktop.js("((d) => [d.y, d.z])(document.getElementById(arguments[0]).data[0])", chart))
    assert drawn[0][0] != drawn[1][0] == drawn[2][0] and drawn[1][1] != drawn[2][1]
    assert desktop.errors() == []


@pytest.mark.slow
def test_dark_paper_and_back(desktop: Page) -> None:
    """Catches ink that stays dark on dark paper."""
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    light = desktop.js(ink)
    desktop.js("document.getElementById('paper').click()")
    desktop.wait(f"{ink} !== '{light}'")
    assert desktop.js("getComputedStyle(document.body).backgroundColor") == "rgb(24, 24, 27)"
    assert desktop.js(ink) == "rgb(228, 228, 231)" and light == "rgb(39, 39, 42)"
    desktop.wait("document.getElementById('paper').textContent === 'Light mode'")
    desktop.screenshot("report-desktop-dark")
    assert desktop.undrawn() == []


TOUCH = """(() => {
  const [chart, prevented] = [document.querySelector('#chart-0 .nsewdrag'), []];
  const box = chart.getBoundingClientRect();
  for (const [type, up] of [['touchstart', 0], ['touchmove', 40], ['touchend', 40]]) {
    const touch = new Touch({identifier: 1, target: chart, clientX: box.x + 50, clientY: box.y + 90 - up});
    const event = new TouchEvent(type, {touches: [touch], changedTouches: [touch], bubbles: true, cancelable: true});
    chart.dispatchEvent(event);
    prevented.push(event.defaultPrevented);
  }
  return prevented;
})()"""


@pytest.mark.slow
def test_a_phone_in_the_dark(run_dir: Path) -> None:
    """Catches what makes the page scroll sideways, and plots that legends and names leave no room."""
    with opened(run_dir / "report.html", PHONE, dark=True) as page:
        page.unfold()
        page.screenshot("report-phone-dark")
        assert not page.overflows() and page.undrawn() == []
        sizes = page.js(
            "[...document.querySelectorAll('.chart')].map((c) => [c._fullLayout._size.w, c._fullLayout._size.h])"
        )
        assert min(width for width, _ in sizes) > 150 and min(height for _, height in sizes) > 60
        assert page.js(TOUCH) == [False, False, False]  # a finger that lands on a chart scrolls the page
        assert page.errors() == []
        page.js("document.getElementById('paper').click()")
        page.wait("document.documentElement.dataset.paper === 'light'")
        page.screenshot("report-phone-light")


@pytest.mark.slow
def test_the_process_is_left_as_it_was(run_dir: Path, tmp_path: Path) -> None:
    """Training goes on to the next job of a sweep: a report that draws numbers would change that job's model."""
    before, dtype, threads = collect_rng(), torch.get_default_dtype(), torch.get_num_threads()
    write_report(run_dir, tmp_path / "a.html", max_tokens=512)
    after = collect_rng()
    assert before["python"] == after["python"] and torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1]) and before["numpy"][2] == after["numpy"][2]
    assert (dtype, threads) == (torch.get_default_dtype(), torch.get_num_threads())


@pytest.mark.slow
def test_experts_that_choose_tokens_have_a_page(tmp_path: Path) -> None:
    """There is no K, no floor and no even share of company."""
    run = tmp_path / "run"
    assert train("trainer.max_steps=4", "balancing=expert_choice", run_dir=run) == 0
    text = text_of(write_report(run, max_tokens=1024))
    assert "experts, which choose tokens" in text and "first 1,024 of" in text
    assert "The middle of the colours is the mean" in text and "random floor" not in text
    assert "s15erav3 evaluate" in text and "s15erav3 sample" not in text and "What the model wrote" not in text


@pytest.mark.slow
def test_text_that_is_gone_is_told(run_dir: Path, tmp_path: Path, session_cache: Path) -> None:
    """A run that was copied from elsewhere still has its curves."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Number {i} of a text, and {i * i} is its square.\n\n" for i in range(2000)))
    run = tmp_path / "run"
    settings = ["data=text", f"data.path={text}", "trainer.max_steps=2", "data.vocab_size=270"]
    assert train(*settings, run_dir=run) == 0
    whole = write_report(run, tmp_path / "whole.html", max_tokens=256)
    assert {"Specialisation", "Co-activation"} <= set(
        sections(whole)
    ) and "Share of each expert by value" not in text_of(whole)
    text.unlink()
    page = write_report(run)
    assert "The experts' specialisation cannot be shown" in text_of(page) and str(text) in text_of(page)
    assert "Co-activation" not in sections(page)
