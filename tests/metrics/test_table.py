"""The table of metrics by itself, and what is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from s15erav3.metrics import METRICS, find, hover
from s15erav3.metrics.metric import PLACES
from s15erav3.metrics.page import markdown
from s15erav3.pages.page import table
from s15erav3.pages.summary import summary_section
from s15erav3.runs.reader import Run

ROOT = Path(__file__).resolve().parents[2]


def example(name: str) -> str:
    """One name of a family."""
    parts = {"layer": "03", "expert": "07", "domain": "phase", "end": "top1", "quantile": "q050"}
    return name.format(**parts)


def test_a_name_has_one_meaning() -> None:
    """Catches a name twice in the table, and a family that takes in another's names."""
    for metric in METRICS:
        name = example(metric.name)
        assert [other.name for other in METRICS if other.pattern.fullmatch(name)] == [metric.name]
        assert find(name) is metric
    for name in ("load_L3/E07", "load_L03/E07/x", "xval/bpb", "val/bpb2", "valxbpb", "layer_03/maxvio_batch", ""):
        assert find(name) is None and hover(name) == "", name
    assert find("load_L112/E100") is not None


def test_every_metric_is_told_in_a_sentence() -> None:
    """Catches an empty or a cut cell, and a place that is none."""
    for metric in METRICS:
        assert metric.says.endswith(".") and "\n" not in metric.says and "|" not in metric.says, metric.name
        assert metric.where and set(metric.where) <= set(PLACES), metric.name
        assert metric.unit, metric.name


def test_suffixes_say_of_what_a_metric_is() -> None:
    """Catches a whole text's figure in a row of training, and the other way round."""
    for metric in METRICS:
        if metric.name.endswith("_batch"):
            assert "train" in metric.where and not {"validation", "evaluate"} & set(metric.where), metric.name
        if metric.name.endswith("_global"):
            assert "train" not in metric.where, metric.name


def test_the_page_of_the_docs_is_up_to_date() -> None:
    """Made anew by: python -m s15erav3.metrics.page > docs/metrics.md."""
    assert (ROOT / "docs" / "metrics.md").read_text() == markdown()


def test_a_hover_text_tells_unit_and_direction() -> None:
    """Where a page shows a metric's name; other heads of a table have none."""
    assert hover("val/bpb").endswith("In bits per byte. Lower is better.")
    assert "better" not in hover("balance/bias_norm") and "`" not in hover("best/val/bpb")
    markup = table(["group", "val/bpb"], [["a", "1.0"]], "A table").markup
    assert '<th scope="col">group</th>' in markup
    assert (
        markup.count(" title=") == 1 and 'tokenizers and sizes. In bits per byte. Lower is better.">val/bpb' in markup
    )


def test_the_facts_of_a_run_tell_what_they_are(tmp_path: Path) -> None:
    """Under the short names that the page gives them, too."""
    figures = {"val/bpb": 1.25, "balance/maxvio_global": 0.5, "perf/tokens_per_second_overall": 10.0}
    section = summary_section(Run(tmp_path, "completed", "", figures, {}, {}))
    markup = str(section.blocks[0])
    for name, key in (("val/bpb", "val/bpb"), ("MaxVio global", "balance/maxvio_global")):
        assert f'<dt title="{hover(key)}">{name}</dt>' in markup
    assert "<dt>status</dt>" in markup


@pytest.mark.parametrize("name", ["balance/maxvio_floor_batch", "layer_03/maxvio_batch", "loss", "bpb"])
def test_there_is_no_second_name(name: str) -> None:
    """What is measured once has one name."""
    assert find(name) is None
