"""Nothing of cricket in what is said about other text; and runs whose configs held the prompts go on with them."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch
import yaml

from s15erav3.__main__ import VERBS, main
from tests.tiny import rows, train

CRICKET = re.compile(
    r"\b(?:(?i:crickets?|inns|innings|overs|commentar(?:y|ies)|balls?|ball-by-ball|bowlers?|batters?|batsm[ae]n|wickets?"
    r"|powerplay|kohli|umpires?)|FOUR|SIX)\b"
)
PLACES = ("harbour", "mill", "orchard", "library", "station", "lighthouse", "garden", "bakery")
PEOPLE = ("the keeper", "a widow", "her brother", "the old miller", "two sailors", "the teacher")
DEEDS = (
    "waited for the tide",
    "read aloud",
    "mended a net",
    "counted the barrels",
    "sang in the rain",
    "wrote a letter",
)


def prose(n: int = 600) -> str:
    """Paragraphs of a quiet town."""
    draw = random.Random(0)

    def sentence() -> str:
        told = f"at the {draw.choice(PLACES)} {draw.choice(PEOPLE)} {draw.choice(DEEDS)} until {draw.randint(1, 12)}"
        return told[0].upper() + told[1:] + "."

    return "\n\n".join(" ".join(sentence() for _ in range(draw.randint(3, 6))) for _ in range(n)) + "\n"


def found_in(text: str) -> list[str]:
    """Words of cricket, with what stands around them."""
    return [text[max(0, m.start() - 40) : m.end() + 20] for m in CRICKET.finditer(text)]


def test_words_of_cricket_are_seen() -> None:
    """A net with holes catches nothing."""
    assert len(found_in('"MI 1st Inns", 19.5 overs; the commentary: a length ball, FOUR, SIX')) == 6
    assert not found_in("loads over time, all over again, four of six; parallel callbacks; batteries") and not found_in(
        prose()
    )


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_about_any_text(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who trains on novels does not know who Kohli is."""
    chosen = ["data=text", "data.path=novel.txt"] if verb == "train" else []
    assert main([verb, "--help", *chosen]) == 0
    assert found_in(capsys.readouterr().out) == []


@pytest.mark.slow
def test_a_run_on_prose_says_nothing_of_cricket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Banner, samples, summary, page, sample, evaluate and the card of an export."""
    text, run = tmp_path / "town.txt", tmp_path / "run"
    text.write_text(prose())
    settings = [
        "data=text",
        f"data.path={text}",
        "trainer.max_steps=8",
        "data.vocab_size=380",
        "callbacks.samples.max_new_tokens=20",
    ]
    assert train(*settings, "report=true", run_dir=run) == 0
    said = capsys.readouterr()
    assert "town.txt" in said.err and found_in(said.out + said.err) == []
    written = rows(run / "samples.jsonl")
    first, second = dict.fromkeys(row["prompt"] for row in written)
    assert text.read_text().count(first) >= 1 <= text.read_text().count(second) and len(first.split()) == 8
    assert [row["step"] for row in written] == [4, 4, 8, 8] and found_in(str(written)) == []
    page = (run / "report.html").read_text()
    page = re.sub(r"<script>[^<]*plotly\.js v.*?</script>", "", page, flags=re.S)
    assert len(page) < 1e6 and "Text coloured by expert" in page and first in page
    assert found_in(page) == []
    assert main(["sample", str(run), "max_new_tokens=20"]) == 0
    assert main(["evaluate", str(run)]) == 0
    assert main(["export", str(run), str(tmp_path / "model")]) == 0
    said = capsys.readouterr()
    assert found_in(said.out + said.err + (tmp_path / "model" / "README.md").read_text()) == []


@pytest.mark.slow
def test_a_run_of_before_goes_on_with_its_own_prompts(tmp_path: Path) -> None:
    """Its config holds the prompts among the callbacks, and none among the data: samples.jsonl goes on alike."""
    run, own = tmp_path / "run", ["", "1st Inns\n19.5 overs\n"]
    assert train("trainer.max_steps=4", run_dir=run) == 0
    file, last = run / ".hydra" / "config.yaml", run / "checkpoints" / "last.ckpt"
    config = yaml.safe_load(file.read_text())
    payload = torch.load(last, weights_only=True)
    for one in (config, payload["run"]["config"]):
        one["callbacks"]["samples"]["prompts"] = own
        del one["data"]["prompts"]
    file.write_text(yaml.safe_dump(config))
    torch.save(payload, last)
    assert main(["train", f"resume={run}", "trainer.max_steps=8"]) == 0
    assert [(row["step"], row["prompt"]) for row in rows(run / "samples.jsonl")] == [(4, p) for p in own] + [
        (8, p) for p in own
    ]
    assert main(["report", str(run), "max_tokens=256"]) == 0
    assert main(["evaluate", str(run)]) == 0
