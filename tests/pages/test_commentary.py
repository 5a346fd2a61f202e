"""The commentary section: its data by hand, and all that it shows and does in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from s15erav3.analysis.trace import NOBODY, Passage, Trace, sample_passages
from s15erav3.data.corpus import Corpus
from s15erav3.data.labels import Domain, label_tokens
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import tokenize
from s15erav3.figures.style import expert_colour
from s15erav3.pages import write_page
from s15erav3.pages.commentary import HERE, Widget, commentary
from tests.browser import DESKTOP, PHONE, Page, opened

EVENT = """\
RCB 1st Inns
{over} overs
Boché to Stoinis, {outcome}, to the fence for € 4 </script><b id="hurt">& "more"</b>

"""
TEXT = "".join(
    EVENT.format(over=f"{i}.{i % 6 + 1}", outcome=outcome)
    for i, outcome in enumerate(["FOUR", "SIX", "no run", "out Caught by Tomar!!"] * 3)
)
WIDER = [
    " to",
    "the",
    " fence",
    " for",
    "RCB",
    " Stoinis",
    "Boch",
    ", ",
    " overs",
    "\n\n",
    " 1st",
    " Inns",
    "</script>",
    '<b id="hurt">',
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Bytes and a few longer tokens: every character of several bytes is cut."""
    tokens = [bytes([b]) for b in range(256)]
    for word in sorted(WIDER, key=len):  # each a chain of merges from its left
        tokens += [word[:n].encode() for n in range(2, len(word) + 1) if word[:n].encode() not in tokens]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    pattern = "|".join(re.escape(word) for word in WIDER) + r"|[\s\S]"
    return Tokenizer(
        tiktoken.Encoding("b", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": len(ranks)})
    )


class Case:
    """A trace of made-up scores over the text, and its chapter."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, n_experts: int, top_k: int | None) -> None:
        file = folder / "written.txt"
        file.write_text(TEXT)
        corpus = Corpus(file)
        self.tokens = tokenize(corpus, tokenizer, None).part("all")
        self.labels = label_tokens(corpus, None, "all", tokenizer, self.tokens)
        passages = sample_passages(self.tokens, self.labels, tokenizer.end_of_text, slots=4, count=6)
        n = sum(stop - start for start, stop in passages)
        draw = np.random.default_rng(n_experts)
        scores = draw.random((2, n, n_experts))
        biases = draw.normal(size=(2, n_experts)) * (0.2 if top_k else 0)
        wanted, alone = (
            (preference > 0.8).astype(bool) if top_k is None else np.argsort(np.argsort(-preference)) < top_k
            for preference in (scores + biases[:, None], scores)
        )
        width = int(wanted.sum(-1).max())
        experts, without = (np.argsort(np.where(m, -scores, 2), kind="stable")[..., :width] for m in (wanted, alone))
        experts, without = (
            np.where(np.take_along_axis(m, ids, -1), ids, NOBODY) for m, ids in ((wanted, experts), (alone, without))
        )
        there = experts != NOBODY
        chosen = np.where(there, np.take_along_axis(scores, experts.clip(0), -1), 0)
        self.trace = Trace(
            [1, 2], top_k, 64, passages, biases.astype(np.float32), experts, chosen.astype(np.float32),
            (chosen / chosen.sum(-1, keepdims=True).clip(1e-9)).astype(np.float32), without,
        )  # fmt: skip
        self.widget = commentary(self.trace, self.tokens, self.labels, tokenizer)

    def write(self, folder: Path, name: str) -> Path:
        file = folder / f"{name}.html"
        write_page(
            file, "Report", name, [self.widget.section], styles=[self.widget.style], scripts=[self.widget.script]
        )
        return file


def data_of(widget: Widget) -> dict[str, Any]:
    (block,) = widget.section.blocks
    found = re.search(r'<script type="application/json">(.*?)</script>', block.markup, re.DOTALL)  # type: ignore[union-attr]
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Case:
    return Case(tmp_path_factory.mktemp("few"), tokenizer, 8, 3)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Case:
    return Case(tmp_path_factory.mktemp("many"), tokenizer, 64, 6)


def test_texts_are_the_text(few: Case) -> None:
    """Catches a character of several bytes shown as question marks or twice, and one that leaves the token that it
    begins in."""
    data = data_of(few.widget)
    assert "".join(data["texts"]).count("Boché to Stoinis") == "".join(data["texts"]).count("€ 4 </script>") == 6
    euro = data["texts"].index("€")
    assert data["texts"][euro - 1 : euro + 4] == [" ", "€", "", "", " "]
    assert [data["bytes"][str(i)] for i in range(euro, euro + 3)] == ["\\xe2", "\\x82", "\\xac"]
    assert sum(data["lengths"]) == len(data["texts"]) == len(data["part"]) == few.trace.experts.shape[1]


def test_bytes_that_are_no_character_are_told(tokenizer: Tokenizer) -> None:
    """A passage cut within a character must not shift all that follows, nor die."""
    tokens = np.array([*"é".encode()[1:], *b"a", *"€".encode()[:2], tokenizer.end_of_text], dtype=np.uint16)
    n = len(tokens)
    ids, values = np.zeros((1, n, 1), dtype=np.int64), np.ones((1, n, 1), dtype=np.float32)
    made = Trace([0], 1, 8, [Passage(0, n)], np.zeros((1, 2), dtype=np.float32), ids, values, values, ids)
    widget = commentary(made, tokens, {"token": Domain(ids[0, :, 0], ["x"])}, tokenizer)
    data = data_of(widget)
    assert data["texts"] == ["\\xa9", "a", "\\xe2", "\\x82", "<|endoftext|>"]
    assert (data["titles"], data["part"]) == (["Passage 1"], [])
    assert "bias" not in widget.section.text


def test_the_data_of_a_large_model_stay_small(tokenizer: Tokenizer) -> None:
    """30 layers of 8 experts a token and 20 events of 60 tokens: the page must still open on a phone."""
    n, shape = 1200, (30, 1200, 8)
    draw = np.random.default_rng(0)
    experts = draw.permuted(np.tile(np.arange(64), (30, n, 1)), axis=-1)[..., :8]
    values = draw.random(shape).astype(np.float32)
    passages = [Passage(i, i + 60) for i in range(0, n, 60)]
    made = Trace(
        list(range(30)), 8, 256, passages, draw.random((30, 64)).astype(np.float32), experts, values, values, experts
    )
    tokens = draw.integers(32, 127, size=n).astype(np.uint16)
    widget = commentary(made, tokens, {"token": Domain(tokens.astype(np.int64), [])}, tokenizer)
    assert len(widget.section.blocks[0].markup) < 2_400_000  # type: ignore[union-attr]


def test_ink_can_be_read_on_every_colour() -> None:
    """Catches a fill so strong that the text on it is gone: WCAG asks for a contrast of 4.5."""

    def rgb(colour: str) -> np.ndarray:
        return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])

    def luminance(colour: np.ndarray) -> float:
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    fills = [int(found) / 100 for found in re.findall(r"--most: (\d+)%", (HERE / "commentary.css").read_text())]
    page = (HERE / "page.css").read_text()
    papers = [(re.findall(rf"--{name}: (#\w{{6}})", page)) for name in ("panel", "ink")]
    assert len(fills) == 2 and [len(found) for found in papers] == [2, 2]
    for most, panel, ink in zip(fills, *papers, strict=True):
        for expert in range(64):
            mixed = most * rgb(expert_colour(expert)) + (1 - most) * rgb(panel)
            dark, light = sorted((luminance(mixed), luminance(rgb(ink))))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (expert, panel)


@pytest.fixture
def page(few: Case, tmp_path: Path) -> Iterator[Page]:
    with opened(few.write(tmp_path, "few")) as found:
        yield found
        assert found.errors() == [] and found.requests() == []


def select(page: Page, name: str, index: int) -> None:
    page.driver.find_elements("css selector", f"select[name={name}] option")[index].click()


def numbers(page: Page) -> list[str]:
    return page.js("[...document.querySelectorAll('.passages .token')].map((t) => t.dataset.expert)")


def state(page: Page, name: str) -> list[bool]:
    return page.js(f"[...document.querySelectorAll('.passages .token')].map((t) => t.classList.contains('{name}'))")


def tip(page: Page) -> list[list[str]] | None:
    """Cells of the details, row by row."""
    return page.js(
        "(() => { const tip = document.querySelector('.tip'); return tip.hidden ? null : "
        "[...tip.querySelectorAll('tr')].map((row) => [...row.cells].map((cell) => cell.textContent)); })()"
    )


def details(case: Case, layer: int, token: int) -> list[list[str]]:
    """What the details of a token must say."""
    found, rows = case.trace, []
    own = [e for e in found.experts[layer, token].tolist() if e != NOBODY]
    biased = bool(found.biases.any())
    for k, expert in enumerate(own):
        star = "" if expert in found.without_bias[layer, token] else " *"
        s, weight = found.scores[layer, token, k], found.weights[layer, token, k]
        values = [s, *([s + found.biases[layer, expert]] if biased else []), weight]
        place = f"{k + 1}{['st', 'nd', 'rd', *['th'] * 17][k]}"
        rows.append([place, f"E{expert:02d}{star}", *(f"{v:.3f}" for v in values)])
    return [["", "expert", "s", *(["s + b"] if biased else []), "weight"], *rows] if own else []


def same(shown: list[list[str]] | None, expected: list[list[str]]) -> bool:
    """Alike, numbers to the last digit but one unit."""
    if shown is None or [row[:2] for row in shown] != [row[:2] for row in expected]:
        return False
    pairs = [(a, b) for s, e in zip(shown[1:], expected[1:], strict=True) for a, b in zip(s[2:], e[2:], strict=True)]
    return shown[:1] == expected[:1] and all(abs(float(a) - float(b)) < 0.0011 for a, b in pairs)


@pytest.mark.slow
def test_every_layer_and_choice_shows_its_experts(page: Page, few: Case) -> None:
    """Every token's number, colour and mark. Catches layers or places taken for each other, and tokens by one off."""
    colours = "[...document.querySelectorAll('.passages .token')].map((t) => t.style.getPropertyValue('--c'))"
    assert page.js("document.querySelectorAll('.passages article').length") == 6
    for layer in range(2):
        select(page, "layer", layer)
        for k in range(3):
            select(page, "choice", k)
            expected = few.trace.experts[layer, :, k]
            assert numbers(page) == [str(e) for e in expected]
            assert page.js(colours) == [expert_colour(int(e)) for e in expected]
            brought = (expected[:, None] != few.trace.without_bias[layer]).all(axis=1)
            assert state(page, "moved") == brought.tolist() and (k == 0 or brought.any())
            loads = np.bincount(few.trace.experts[layer].ravel(), minlength=8)
            shares = page.js("[...document.querySelectorAll('.experts button span')].map((s) => s.textContent)")
            assert shares == [f"{load / loads.mean():.2f}" for load in loads]
    # The text is the corpus', never markup of the page's.
    assert page.js("document.getElementById('hurt')") is None
    assert '</script><b id="hurt">&' in page.js("document.querySelector('.passages article').textContent").replace(
        "·", ""
    )
    # A number and a fill that are really painted.
    painted = page.js("getComputedStyle(document.querySelector('.token'), '::after').content.slice(1, -1)")
    assert painted.rstrip("*") == str(expected[0]) and painted.endswith("*") == brought[0]
    assert "rgba(0, 0, 0, 0)" not in page.js("getComputedStyle(document.querySelector('.token')).backgroundColor")
    page.screenshot("commentary-few-experts")


@pytest.mark.slow
def test_keyboard_and_pointer_reach_the_details(page: Page, few: Case) -> None:
    """Catches details for the mouse alone, a tab stop for each token, and the scores of a neighbour."""
    select(page, "layer", 1)
    tokens = page.driver.find_elements("css selector", ".passages .token")
    press = lambda key: page.driver.switch_to.active_element.send_keys(key)  # noqa: E731
    assert page.js("document.querySelectorAll('.passages [tabindex=\"0\"]').length") == 6
    page.driver.find_elements("css selector", ".experts button")[-1].send_keys(Keys.TAB)
    assert page.driver.switch_to.active_element == tokens[0] and same(tip(page), details(few, 1, 0))
    assert tokens[0].get_attribute("aria-describedby") == page.js("document.querySelector('.tip').id")
    for i in range(1, 6):
        press(Keys.ARROW_RIGHT)
        assert same(tip(page), details(few, 1, i)), i
    press(Keys.ARROW_LEFT)
    assert same(tip(page), details(few, 1, 4))
    press(Keys.END)
    last = few.trace.passages[0].stop - few.trace.passages[0].start - 1
    assert same(tip(page), details(few, 1, last)) and "↵" in page.js("document.querySelector('.tip code').textContent")
    press(Keys.TAB)
    assert same(tip(page), details(few, 1, last + 1))
    assert page.js("document.querySelector('.tip').textContent").find("part: header") > 0
    page.js("document.querySelector('select').selectedIndex = 0")
    page.js("document.querySelector('select').dispatchEvent(new Event('change'))")
    assert same(tip(page), details(few, 0, last + 1))  # details follow the layer
    press(Keys.ESCAPE)
    assert tip(page) is None
    press(Keys.HOME)
    # Enter shows the tokens of the expert that is shown at the token; Escape twice takes all back.
    press(Keys.ENTER)
    expert = few.trace.experts[0, last + 1, 0]
    assert state(page, "dim") == (few.trace.experts[0] != expert).all(axis=1).tolist()
    press(Keys.ESCAPE)
    press(Keys.ESCAPE)
    assert not any(state(page, "dim"))
    page.js("document.activeElement.blur()")
    hover = page.driver.find_elements("css selector", ".passages .token")[40]
    ActionChains(page.driver).move_to_element(hover).perform()
    assert same(tip(page), details(few, 0, 40))
    ActionChains(page.driver).move_to_element(page.driver.find_element("css selector", "h1")).perform()
    assert tip(page) is None


@pytest.mark.slow
def test_one_expert_alone(page: Page, few: Case) -> None:
    """Catches tokens left out that have the expert in another place, loads of another layer, and a pick that stays."""
    select(page, "layer", 1)
    button = page.driver.find_elements("css selector", ".experts button")[5]
    button.send_keys(Keys.SPACE)
    has = (few.trace.experts[1] == 5).any(axis=1)
    assert state(page, "dim") == (~has).tolist()
    assert numbers(page) == ["5" if own else "" for own in has]
    assert button.get_attribute("aria-pressed") == "true"
    told = page.js("document.querySelector('.told').textContent")
    assert told.startswith(f"E05 in layer 2 handles {has.sum()} of {len(has)} tokens, ")
    # What it takes above its average, from the labels.
    at = np.concatenate([np.arange(*passage) for passage in few.trace.passages])
    part = few.labels["part"]
    for name, times, taken in re.findall(r"(\w+) ([\d.]+) times \((\d+) tokens\)", told):
        of = part.codes[at] == part.names.index(name)
        assert int(taken) == (of & has).sum()
        assert float(times) == pytest.approx((of & has).sum() / of.sum() / has.mean(), abs=0.051)
    page.js("document.querySelector('[name=strength]').click()")
    k = (few.trace.experts[1] == 5).argmax(axis=1)
    weight = few.trace.weights[1, np.arange(len(has)), k] / few.trace.weights.max()
    shown = page.js(
        "[...document.querySelectorAll('.passages .token')].map((t) => Number(t.style.getPropertyValue('--w')))"
    )
    np.testing.assert_allclose(np.array(shown)[has], 0.15 + 0.85 * weight[has], atol=0.002)
    page.screenshot("commentary-one-expert")
    button.click()
    assert numbers(page) == [str(e) for e in few.trace.experts[1, :, 0]]
    page.js("document.querySelector('[name=numbers]').click()")
    assert page.js("getComputedStyle(document.querySelector('.token'), '::after').content") == "none"


def within(page: Page) -> bool:
    return page.js(
        "(() => { const r = document.querySelector('.tip').getBoundingClientRect();"
        "return r.width > 0 && r.left >= 0 && r.top >= 0 && r.right <= innerWidth && r.bottom <= innerHeight; })()"
    )


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone(many: Case, tmp_path: Path, dark: bool) -> None:
    """64 experts at 390 pixels. Catches a page that scrolls sideways, details beyond the screen, and a tap that does
    nothing."""
    with opened(many.write(tmp_path, "many"), PHONE, dark=dark) as page:
        page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        assert not page.overflows()
        n = many.trace.experts.shape[1]
        for i in (0, 8, n // 3, n // 2, n - 2):
            page.js("document.activeElement.blur()")
            assert tip(page) is None
            x, y = page.js(
                f"(() => {{ const t = document.querySelectorAll('.passages .token')[{i}];"
                "t.scrollIntoView({ block: 'center' }); const r = t.getBoundingClientRect();"
                "return [r.left + r.width / 2, r.top + r.height / 2]; })()"
            )
            tap = {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
            page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", tap)
            page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            page.wait(f"document.activeElement === document.querySelectorAll('.passages .token')[{i}]", 5)
            assert same(tip(page), details(many, 0, i)) and within(page), i
        page.js("scrollBy(0, 150)")
        page.wait("document.querySelector('.tip').getBoundingClientRect().bottom > 0", 5)
        assert within(page)
        page.screenshot(f"commentary-phone-{'dark' if dark else 'light'}")
        assert not page.overflows() and page.errors() == [] and page.requests() == []


@pytest.mark.slow
def test_where_experts_choose_tokens(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Tokens with none, one or many experts. Catches an expert beyond the last, and biases that play no part."""
    case = Case(tmp_path, tokenizer, 12, None)
    counts = (case.trace.experts[0] != NOBODY).sum(axis=1)
    assert counts.min() == 0 and counts.max() > 3
    with opened(case.write(tmp_path, "choice"), DESKTOP, dark=True) as page:
        select(page, "choice", 2)
        assert numbers(page) == [str(e) if e != NOBODY else "\u2013" for e in case.trace.experts[0, :, 2]]
        assert not any(state(page, "moved"))
        for i in (int(counts.argmin()), int(counts.argmax())):
            page.js(f"document.querySelectorAll('.passages .token')[{i}].focus()")
            assert same(tip(page), details(case, 0, i))
        page.screenshot("commentary-expert-choice-dark")
        assert page.errors() == []
