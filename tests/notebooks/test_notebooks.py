"""The notebooks: stored clean, and executed whole on a tiny sweep."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hydra import compose, initialize_config_dir
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from omegaconf import OmegaConf

from s15erav3.__main__ import main
from s15erav3.cli.hydra_setup import conf_dir
from tests.tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
BALANCE, LEARNT = (ROOT / "notebooks" / name for name in ("01_expert_balance.ipynb", "02_what_experts_learn.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"


def read(file: Path) -> NotebookNode:
    """A notebook as it is stored."""
    return nbformat.read(file, as_version=nbformat.NO_CONVERT)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_stored_without_what_an_execution_leaves(file: Path) -> None:
    """Outputs make every difference unreadable, and carry text of a corpus and names of folders into the repository."""
    notebook = read(file)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cell.id), "a name, which no tool gives anew"
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}, "no version of somebody's Python"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_path_of_a_machine_and_no_address_is_in_it(file: Path) -> None:
    """A notebook that names its author's folders runs nowhere else; one that fetches needs a network."""
    assert re.findall(r"""["'\s(](?:/|~/|[A-Z]:\\)\w[^"'\s]*|https?:""", file.read_text()) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_command_that_makes_its_folder_composes(file: Path) -> None:
    """A setting that was renamed cannot stay in a notebook."""
    (command,) = re.findall(r"s15erav3 train ([^\"\\]+)", file.read_text())
    settings = [re.sub(r",.*", "", word) for word in command.split() if "=" in word and not word.startswith("hydra.")]
    OmegaConf.register_new_resolver("either", lambda a, b: b if a is None else a, replace=True)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose("train", settings)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies, two seeds."""
    folder = tmp_path_factory.mktemp("notebooks") / "sweep"
    settings = ["experts=e8", "balancing=none,loss_free", "seed=1,2", "trainer.max_steps=8"]
    assert main(["train", "-m", *TINY, *settings, f"hydra.sweep.dir='{folder}'"]) == 0
    return folder


def execute(file: Path, folder: Path) -> list[NotebookNode]:
    """Outputs of a notebook that was executed by this Python, as if opened in a folder.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = read(file)
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; print(sys.executable)"))
    # With no folders to look in there is but the kernel of this very environment, whatever the user has registered.
    specs = KernelSpecManager(kernel_dirs=[])
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.km = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)  # its own, which it ends
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs.pop().text.strip() == sys.executable
    return outputs


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user has it who has set nothing."""
    for name in ("S15ERAV3_SWEEP", "S15ERAV3_RUN", "PLOTLY_RENDERER"):
        monkeypatch.delenv(name, raising=False)


def figures(outputs: list[NotebookNode]) -> Iterator[dict[str, Any]]:
    """Plotly's figures among the outputs."""
    return (output.data[PLOTLY] for output in outputs if PLOTLY in output.get("data", {}))


def titles(outputs: list[NotebookNode]) -> list[str]:
    """Of the figures that have something to draw."""
    return [figure["layout"]["title"]["text"] for figure in figures(outputs) if figure["data"]]


def complaints(outputs: list[NotebookNode]) -> list[str]:
    """Errors, and what was written to stderr."""
    return [str(output) for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.slow
def test_a_sweep_is_judged(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of the package that was renamed, or that wants something else, leaves the notebook broken."""
    monkeypatch.setenv("S15ERAV3_SWEEP", str(sweep))
    outputs = execute(BALANCE, ROOT / "notebooks")
    assert complaints(outputs) == []
    (table,) = (
        o.data["text/markdown"] for o in outputs if "| balancing |" in o.get("data", {}).get("text/markdown", "")
    )
    assert "4 runs: 4 completed" in table
    assert re.search(r"^\| loss_free \| 2 \| \d", table, flags=re.MULTILINE)
    shown = titles(outputs)
    for title in (
        "val/bpb against MaxVio (global)",
        "val/bpb over steps",
        "MaxVio global over steps",
        "Load of each expert, by step",
        "MaxVio of each layer",
        "MaxVio, mean over layers",
    ):
        assert title in shown
    assert {"balancing"} <= set(shown), "the effect of the strategy"
    (slider,) = (f for f in figures(outputs) if f["layout"]["title"]["text"] == "Load of each expert, by step")
    assert [step["label"] for step in slider["layout"]["sliders"][0]["steps"]] == ["1", "2", "4", "6", "8"]
    (by_layer,) = (f for f in figures(outputs) if f["layout"]["title"]["text"] == "MaxVio of each layer")
    assert "random floor" in [trace["name"] for trace in by_layer["data"]]


@pytest.mark.slow
def test_what_the_experts_of_a_run_learnt_is_shown(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, and opened at the root; the commentary in its frame has the run's passages and needs no network."""
    monkeypatch.setenv("S15ERAV3_RUN", str(sweep / "2"))
    outputs = execute(LEARNT, ROOT)
    assert complaints(outputs) == []
    assert re.search(r"As best.ckpt \(step \d\) routes", "".join(o.get("text", "") for o in outputs))
    shown = titles(outputs)
    assert "Information of an expert about its token" in shown
    assert "Which experts share their tokens" in shown
    for domain in ("part", "event", "phase", "bowler"):
        assert any(title.startswith(f"Who takes which {domain}, layer") for title in shown)
    markup = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    (frame,) = (text for text in markup if "<iframe" in text)
    page = html.unescape(re.search('srcdoc="([^"]*)"', frame)[1])  # type: ignore[index]
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])  # type: ignore[index]
    assert data["experts"] == 8 and len(data["titles"]) > 3
    assert not re.search(r"""(?:src|href)=|@import|url\(|fetch\(""", page)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "command"), [(BALANCE, "s15erav3 train -m "), (LEARNT, "s15erav3 train hydra.run.dir=")]
)
def test_a_folder_that_is_not_there_is_told_with_the_command_that_makes_one(
    file: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens a notebook first has no sweep yet, and needs a command rather than an empty figure."""
    monkeypatch.setenv("S15ERAV3_SWEEP", str(tmp_path / "none"))
    monkeypatch.setenv("S15ERAV3_RUN", str(tmp_path / "none"))
    with pytest.raises(CellExecutionError, match=re.escape(command)):
        execute(file, tmp_path)
