"""scripts/study_panels.py, and what docs/laboratory.md repeats of the study."""

from __future__ import annotations

import importlib
import re
import xml.etree.ElementTree as ET

import pytest

from tests.docs import ROOT, sections

FIGURES = ROOT / "docs" / "figures"
FIGURE = (FIGURES / "balancing_maxvio.svg").read_text()


@pytest.fixture(scope="module")
def pictures() -> dict[str, str]:
    """Each strategy's, cut from the figure as it is now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return dict(importlib.import_module("study_panels").cut(FIGURE))


def test_the_pictures_are_those_of_the_figure(pictures: dict[str, str]) -> None:
    """Else scripts/study_panels.py was forgotten after a new study."""
    assert pictures == {f.stem.removeprefix("maxvio_"): f.read_text() for f in FIGURES.glob("maxvio_*.svg")}
    assert len(pictures) == 14


def test_a_picture_is_whole(pictures: dict[str, str]) -> None:
    """It holds every shape that it refers to, the curves of its own panel alone, and both axes' labels."""
    for name, text in pictures.items():
        picture = ET.fromstring(text)
        ids = [element.get("id") for element in picture.iter() if element.get("id")]
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', text)) <= set(ids), name
        assert len(ids) == len(set(ids)), name
        assert len([i for i in ids if i.startswith("axes_")]) == 1
        assert len([i for i in ids if i.startswith("text_")]) == 1 + 3 + 3  # title, 0.1 1 10, 0 200 400
    colours = {name: set(re.findall(r"stroke: (#\w+); stroke-width: 1\.", text)) for name, text in pictures.items()}
    assert {"#0072b2", "#d55e00"} <= colours["quantile"]


def test_the_laboratory_repeats_the_study_faithfully() -> None:
    """Every number of its tables stands in the study's table of those experts."""
    study: dict[tuple[str, str], list[str]] = {}
    experts = ""
    for line in (ROOT / "docs" / "balancing.md").read_text().splitlines():
        experts = line[9:12] if line.startswith("`experts=") else experts
        cells = [cell.strip().partition(" (")[0] for cell in line.strip("|").split("|")]
        if len(cells) == 8 and experts:
            study.setdefault((experts, cells[0]), cells)
    checked = 0
    for text in sections((ROOT / "docs" / "laboratory.md").read_text()).values():
        for name, rows in re.findall(r"maxvio_(\w+)\.svg\)\n\n\|.*\n\|.*\n((?:\|.*\n)+)", text):
            for row in rows.splitlines():
                experts, value, bpb, maxvio, dead, churn = (cell.strip() for cell in row.strip("|").split("|"))
                loss, _, against = bpb.removesuffix(" %").partition(", ")
                found = [name, value.strip("-"), loss, against, maxvio, dead]
                of_study = study[experts, name]
                assert found == [*of_study[:6]]
                assert churn.removesuffix(" %").replace("not defined", "") == of_study[7]
                checked += 1
    assert checked == 28
