"""Commands of the documentation that are really run, on a tiny run in the place of RUN_DIR."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from s15erav3.__main__ import main
from tests.docs import ROOT, blocks, commands
from tests.tiny import TINY, result, train

pytestmark = pytest.mark.slow
TEXT = ROOT / "s15erav3" / "data" / "sample" / "commentary.txt"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can do all that the docs ask of one: with a block to draft with, and a checkpoint on the way."""
    folder = tmp_path_factory.mktemp("docs") / "run"
    more = ["model.num_nextn_predict_layers=1", "callbacks.checkpoint.keep_every_n_steps=3", "trainer.max_steps=6"]
    assert train(*more, "data.sequence_length=96", run_dir=folder) == 0
    return folder


def placed(words: list[str], run_dir: Path, out_dir: Path) -> list[str]:
    """The words with real files in the places of those in capitals."""
    places = {"RUN_DIR": run_dir, "OUT_DIR": out_dir, "FILE": TEXT, "step_000250": "step_000003"}
    return [re.sub("|".join(places), lambda found: str(places[found[0]]), word) for word in words]


def about_a_run(verb: str) -> list[list[str]]:
    """Commands of a verb that read a run's folder or an exported one."""
    return [c.arguments for c in commands("s15erav3") if c.verb == verb and re.search("RUN_DIR|OUT_DIR", c.label)]


def test_evaluate_and_report(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line leaves what it says."""
    monkeypatch.chdir(tmp_path)
    for words in about_a_run("evaluate"):
        assert main(["evaluate", *placed(words, run_dir, tmp_path), "output=found.json"]) == 0, words
        assert (tmp_path / "found.json").exists() and (tmp_path / "found.parquet").exists()
        (tmp_path / "found.json").unlink()
    for words in about_a_run("report"):
        assert main(["report", *placed(words, run_dir, tmp_path), "max_tokens=500"]) == 0
        assert (run_dir / "report.html").exists()


def test_export_then_transformers_then_training_and_sampling(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page on Hugging Face from top to bottom; its Python writes what ``sample`` does."""
    monkeypatch.chdir(tmp_path)
    out_dir = tmp_path / "out"
    (words,) = about_a_run("export")
    assert main(["export", *placed(words, run_dir, out_dir)]) == 0
    (code,) = blocks((ROOT / "docs" / "hugging-face.md").read_text(), "python")
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code.replace("OUT_DIR", str(out_dir)), {})
    sampled = io.StringIO()
    with redirect_stdout(sampled):
        assert (
            main(["sample", str(out_dir), "prompt=Kohli comes forward and ", "temperature=0", "max_new_tokens=40"]) == 0
        )
    assert printed.getvalue().strip() in sampled.getvalue()
    (words,) = [w for w in about_a_run("train") if w[0].startswith("init_from=")]
    only_run = [setting for setting in TINY if not setting.startswith(("model.", "data.vocab_size"))]
    assert (
        main(["train", *placed(words, run_dir, out_dir), *only_run, "trainer.max_steps=2", "hydra.run.dir=more"]) == 0
    )
    assert result(tmp_path / "more")["status"] == "completed"


def test_sample(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts in the quotes of the shell, several of them, and speculative decoding."""
    texts = [w for w in about_a_run("sample") if w[0] == "RUN_DIR"]
    assert len(texts) >= 3
    for words in texts:
        capsys.readouterr()
        assert main(["sample", *placed(words, run_dir, tmp_path), "max_new_tokens=5"]) == 0, words
        written = capsys.readouterr().out
        for prompt in [w for w in words if w.startswith("prompt=")]:
            assert ("2nd Inns" if "Inns" in prompt else "Kohli comes forward and ") in written


def test_a_sweep_is_made_gone_on_with_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's first sweep, resumed as it says, and compared."""
    monkeypatch.chdir(tmp_path)
    readme = [c for c in commands("s15erav3") if c.page == "README.md"]
    (sweep,) = [c for c in readme if "sweep.name=first" in c.words]
    (again,) = [c for c in readme if "sweep.resume=multirun/first" in c.words]
    (compare,) = [c for c in readme if c.verb == "compare"]
    fewer = ["experts=e8", "seed=1", "trainer.max_steps=2"]
    assert main(["train", *TINY, *sweep.arguments, *fewer, "balancing=loss_free,none"]) == 0
    assert {file.parent.name for file in (tmp_path / "multirun" / "first").glob("*/result.json")} == {"0", "1"}
    (tmp_path / "multirun" / "first" / "1" / "result.json").unlink()
    assert main(["train", *again.arguments]) == 0
    assert result(tmp_path / "multirun" / "first" / "1")["status"] == "completed"
    assert main(["compare", *compare.arguments]) == 0
    assert {f.name for f in (tmp_path / "multirun" / "first").glob("compare.*")} == {
        "compare.csv",
        "compare.md",
        "compare.html",
    }
