"""What the model wrote, as markup."""

from __future__ import annotations

import re
from typing import Any

from s15erav3.pages.page import Html
from s15erav3.pages.samples import MOST_STEPS, samples


def markup(rows: list[dict[str, Any]]) -> str:
    found = samples(rows)
    assert found is not None and found.section.folded
    (block,) = found.section.blocks
    assert isinstance(block, Html)
    return block.markup


def row(step: int, prompt: str = "p", text: str = "t") -> dict[str, Any]:
    return {"step": step, "prompt": prompt, "text": text}


def test_texts_stand_at_their_step_and_the_last_is_seen() -> None:
    """Catches texts under another step's heading, and a slider that stands elsewhere than the text."""
    told = markup([row(250, "", "first"), row(250, "Dear", " all"), row(500, "", "second"), row(500, "Dear", " me")])
    parts = re.findall(r'<div class="at" data-step="(\d+)"( hidden)?>(.*?)</div>', told, re.S)
    assert [(step, hidden) for step, hidden, _ in parts] == [("250", " hidden"), ("500", "")]
    plain = [re.sub(r"<[^>]+>", "|", text) for _, _, text in parts]
    assert plain[0] == "|Step 250|||(without a prompt)\n|first|||Dear| all|"
    assert 'max="1" value="1"' in told


def test_one_step_has_no_slider_and_none_no_chapter() -> None:
    """A slider with one place looks broken; runs without samples, and files of strangers, are common."""
    assert "<input" not in markup([row(5)])
    assert samples([]) is None
    assert (
        samples([{"step": 3}, {"step": 4, "prompt": None, "text": "x"}, {"step": 5, "prompt": "p", "text": 1}]) is None
    )


def test_texts_are_no_markup_and_may_hold_half_a_character() -> None:
    """A model writes whatever it has read."""
    told = markup([row(1, "<b>", "</blockquote><script>\ud800")])
    assert "<b>" not in told and "<script>" not in told and "&lt;/blockquote&gt;" in told
    told.encode()


def test_a_long_run_shows_evenly_spaced_steps_with_the_first_and_the_last() -> None:
    """A page with ten thousand texts opens on no phone."""
    told = markup([row(step) for step in range(10, 10_010, 10)])
    steps = [int(step) for step in re.findall(r'data-step="(\d+)"', told)]
    assert len(steps) == MOST_STEPS and steps[0] == 10 and steps[-1] == 10_000
    found = samples([row(step) for step in range(1000)])
    assert found is not None and "100 of 1,000 validations" in found.section.text
