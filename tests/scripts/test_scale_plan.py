"""The table of docs/scaling.md is what the script prints, and its sizes are the published ones."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from s15erav3.model import Transformer, count_parameters

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts" / "scale_plan.py")


def test_the_page_shows_the_table_of_today(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(SCRIPT, run_name="__main__")
    assert capsys.readouterr().out in (ROOT / "docs" / "scaling.md").read_text()


def test_sizes_and_shares() -> None:
    """Against the papers, and against a model that is built, without memory for its weights."""
    import torch

    script = runpy.run_path(SCRIPT)
    one, lite, third = script["plans"]()
    assert count_parameters(lite.config).total == pytest.approx(15.7e9, rel=0.005)
    counts = count_parameters(third.config)
    assert counts.total - counts.mtp == pytest.approx(671e9, rel=0.002)
    with torch.device("meta"):
        net = Transformer(one.config)
    experts = sum(p.numel() for name, p in net.named_parameters() if ".experts." in name)
    assert script["experts_of"](one.config) == experts
