"""What a verb imports: none of the large libraries that it does not use, and whoever does use them gets them."""

from __future__ import annotations

import gc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from s15erav3.cli import quick

UNUSED = {
    "sample": ("lightning", "torchmetrics", "torch._dynamo", "sympy", "pandas", "pyarrow", "wandb", "transformers"),
    "compare": ("torch", "lightning", "wandb"),
    "train": ("transformers", "scipy", "torchmetrics.functional", "torchmetrics.text", "wandb", "pandas", "plotly"),
}


def python(script: str) -> str:
    """The output of a script in a process of its own."""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("verb", ["sample", "compare", pytest.param("train", marks=pytest.mark.slow)])
def test_a_verb_imports_nothing_large_that_it_does_not_use(verb: str) -> None:
    """The command begins as every command does, and fails at a setting once the verb is imported."""
    script = f"""
import sys
from s15erav3.__main__ import main
assert main(["{verb}", "RUN", "no_setting=1"]) == 2
print("s15erav3.{verb}" in sys.modules, *(name for name in {UNUSED[verb]} if name in sys.modules))
"""
    assert python(script) == "True\n"


@pytest.mark.slow
def test_who_uses_torchmetrics_has_all_of_it() -> None:
    """By attribute, by name, and by module, with the base class that Lightning knows."""
    script = """
from s15erav3.cli import quick
with quick.importing():
    import lightning, torchmetrics
import sys
assert "torchmetrics.functional" not in sys.modules
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics import MeanMetric
from lightning.pytorch.core.module import Metric
import torch
assert issubclass(MulticlassAccuracy, Metric) and issubclass(MeanMetric, torchmetrics.Metric)
assert torchmetrics.functional.accuracy(torch.tensor([1, 0]), torch.tensor([1, 1]), task="binary") == 0.5
assert torchmetrics.__version__ == __import__("importlib.metadata").metadata.version("torchmetrics")
assert {"Metric", "MeanMetric", "text"} <= {*dir(torchmetrics)}, dir(torchmetrics)
try:
    torchmetrics.Nonsense
except AttributeError as error:
    print(error)
"""
    assert "has no attribute 'Nonsense'" in python(script)


def test_an_error_in_the_deferred_part_is_raised_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without deferring: an import that failed is tried again."""
    package = tmp_path / "torchmetrics"
    package.mkdir()
    (package / "__init__.py").write_text("import absent_library\nfrom .metric import Metric\nlate = 1\n")
    (package / "metric.py").write_text("from torchmetrics import _logger\nclass Metric: ...\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [quick.Torchmetrics(), *sys.meta_path])
    monkeypatch.setattr(quick.BaseClassesFirst, "BASE", ("metric",))
    module = import_module("torchmetrics")
    assert module.Metric is sys.modules["torchmetrics.metric"].Metric
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="absent_library"):
            _ = module.late
    (tmp_path / "absent_library.py").write_text("")
    assert module.late == 1
    for name in ("torchmetrics", "torchmetrics.metric", "absent_library"):
        sys.modules.pop(name, None)


def test_garbage_is_collected_again_after_the_imports() -> None:
    """Also after one that fails."""
    script = """
import gc
from s15erav3.cli import quick
for module in ("json", "absent_library"):
    try:
        with quick.importing():
            assert not gc.isenabled()
            __import__(module)
    except ImportError:
        print("absent")
    assert gc.isenabled()
"""
    assert python(script) == "absent\n"
    with quick.importing():  # torch is there already: nothing large follows, and nothing must be kept for ever
        assert gc.isenabled()
