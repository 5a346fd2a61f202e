"""The report's section on the removal of experts, from the file in a run's folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from s15erav3.analysis.effects import Effects
from s15erav3.analysis.effects_table import SUFFIX, Ablation, write_ablation
from s15erav3.analysis.needs import Need, Pooled
from s15erav3.pages.ablation import ablation_sections
from s15erav3.pages.page import Choice, Html

ABOUT = {"checkpoint": "x/best.ckpt", "step": 1200, "split": "val", "ablate_mode": "reroute", "ablation/tokens": 5000}
GROUPS = [("all", "all"), ("event", "SIX"), ("bowler", "A & B")]
CHANGE = np.arange(12.0).reshape(3, 2, 2) / 100


def found(change: np.ndarray = CHANGE, about: dict[str, object] = ABOUT) -> Ablation:
    need = Need("event", "<SIX>", 5, 1, 2.5, 0.03, 0.01, 0.005)
    sizes = np.array([90, 60, 30]), np.array([9, 8, 1])
    half = np.full_like(change, 0.002)
    effects = Effects([2, 5], GROUPS, *sizes, np.ones(3), change, half, [need], [Pooled("all", 1, 0.03, 0.01, 0.005)])
    return Ablation(effects, about)


def test_the_section_has_a_picture_for_each_value_but_names_of_players(tmp_path: Path) -> None:
    """Catches a transposed picture, and a run's own words in the markup."""
    write_ablation(found(), tmp_path / f"evaluate-best-val{SUFFIX}")
    (section,) = ablation_sections(tmp_path)
    assert section.folded and "best.ckpt (step 1,200) on 5,000 tokens" in section.text and "9 documents" in section.text
    assert "next best expert" in section.text and "need their specialists more" in section.text
    choice = section.blocks[0]
    assert isinstance(choice, Choice) and list(choice.options) == [("all",), ("event: SIX",)]
    picture = choice.options["event: SIX",].data[0]  # type: ignore[union-attr]
    assert [list(row) for row in picture.z] == [[0.04, 0.05], [0.06, 0.07]] and list(picture.y) == ["L02", "L05"]
    tables = [block.markup for block in section.blocks if isinstance(block, Html)]
    assert "L05 E01" in tables[0] and "+0.0300" in tables[0] and "&lt;SIX&gt;" in tables[2] and "+0.0200" in tables[2]


def test_the_newest_file_is_shown_and_broken_ones_are_not(tmp_path: Path) -> None:
    """A file of another program or version must not cost the whole page."""
    assert ablation_sections(tmp_path) == []
    for age, (name, step) in enumerate({"new": 7, "old": 3}.items()):
        file = tmp_path / f"evaluate-{name}{SUFFIX}"
        write_ablation(found(about=ABOUT | {"step": step}), file)
        os.utime(file, (1000 - age, 1000 - age))
    (tmp_path / f"evaluate-broken{SUFFIX}").write_text("no table")
    assert "(step 7)" in ablation_sections(tmp_path)[0].text
    for file in tmp_path.glob(f"*w{SUFFIX}"):
        file.unlink()
    assert "(step 3)" in ablation_sections(tmp_path)[0].text
