"""The HTML file: self-contained, escaped, small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from s15erav3.figures.training import Series, curves
from s15erav3.pages import Chart, Choice, Html, Section, table, write_page
from s15erav3.pages.page import script_json


def line(values: list[float]) -> go.Figure:
    return curves("A title", "y", [Series("a", list(range(len(values))), values)])


def written(file: Path, *blocks: Any, title: str = "t") -> tuple[str, dict[str, Any]]:
    """The page without plotly.js, and the data of its charts."""
    write_page(file, title, "s", [Section("First & last", "", blocks)])
    text = file.read_text()
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text, re.S)
    assert found
    return re.sub(r"<script>.*?</script>", "", text, flags=re.S), json.loads(found[1])


def test_nothing_is_fetched(tmp_path: Path) -> None:
    """A page that wants a CDN is blank on a cluster's login node, and tells others what one reads."""
    text, _ = written(tmp_path / "a.html", Chart(line([1.0]), "c"))
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", text)
    assert "@import" not in text and "url(" not in text


def test_texts_cannot_break_out(tmp_path: Path) -> None:
    """Folders and commentary may hold anything, </script> included."""
    nasty = "</script><b onclick='x'>"
    figure = line([1.0]).update_traces(name=nasty)
    text, data = written(tmp_path / "a.html", Chart(figure, nasty), table((nasty,), [(nasty,)], nasty), title=nasty)
    assert nasty not in text
    assert data["places"][0][0]["data"][0]["name"] == nasty
    assert json.loads(script_json("\u2028<")) == "\u2028<" and "<" not in script_json("<")


def test_the_title_is_a_heading_and_the_template_the_papers(tmp_path: Path) -> None:
    """Plotly's titles do not wrap, and a template of light paper would stay on dark paper."""
    text, data = written(tmp_path / "a.html", Chart(line([1.0]), "c"))
    assert "<h3>A title</h3>" in text
    assert not {"title", "template", "sliders"} & data["places"][0][0]["layout"].keys()


def test_arrays_in_common_are_stored_once(tmp_path: Path) -> None:
    """Thirty layers of 64 experts have the same steps 1,920 times."""
    figures = {(f"L{i:02d}",): line([float(i)] * 50) for i in range(30)}
    _, data = written(tmp_path / "a.html", Choice("t", ("layer",), figures, "c"))
    assert len(data["shared"]) == 31
    (place,) = data["places"]
    assert [data["shared"][f["data"][0]["y"]["shared"]][0] for f in place] == [float(i) for i in range(30)]
    assert len({f["data"][0]["x"]["shared"] for f in place}) == 1


def test_a_choice_must_be_complete_and_in_order(tmp_path: Path) -> None:
    """The page counts through the selects: a missing figure would show its neighbour."""
    texts = {(a, b): Html(f"<p>{a}{b}</p>") for a in "xy" for b in "12"}
    text, _ = written(tmp_path / "a.html", Choice("t", ("one", "two"), texts, "c"))
    assert re.findall(r"<option>(.)</option>", text) == ["x", "y", "1", "2"]
    assert text.count('<div class="text" hidden>') == 3
    del texts["x", "2"]
    with pytest.raises(ValueError, match="every combination"):
        written(tmp_path / "a.html", Choice("t", ("one", "two"), texts, "c"))


def test_columns_of_numbers_are_set_right_and_others_left() -> None:
    """A column of settings, in which only some are numbers, would look torn."""
    markup = table(("a", "b"), [("1,024", "1"), ("-0.5", "x"), ("3 %", "2")], "c").markup
    assert re.findall(r'<td class="number">([^<]*)', markup) == ["1,024", "-0.5", "3 %"]


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """Half a page would be opened."""
    (tmp_path / "a.html").mkdir()
    with pytest.raises(OSError, match="directory"):
        written(tmp_path / "a.html")
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
