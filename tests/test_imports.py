"""Who may import whom: lower floors never see upper ones.

The table below is the package's layout, from the ground up: no place is exempt, and no two places see each other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import s15erav3

PACKAGE = Path(s15erav3.__file__).parent
FLOORS: dict[str, set[str]] = {
    # the ground: Python alone
    "__init__": set(),
    "errors": set(),
    "cores": set(),
    "files": set(),
    "metrics": set(),
    "cli": {"errors", "files"},
    "ranks": {"errors"},
    "terminal": {"ranks"},
    # what is studied
    "model": set(),
    "balancing": {"model", "errors"},
    "data": {"cores", "errors", "files"},
    "interop": {"model", "data", "errors", "files"},
    "training": {"balancing", "model"},
    "device": {"training", "errors"},
    # a run's folder and who writes into it
    "runs": {"__init__", "cli", "data", "model", "errors", "files"},
    "loggers": {"runs", "cli", "errors", "files"},
    "figures": set(),
    "callbacks": {"runs", "figures", "training", "balancing", "model", "errors"},
    # looking at it
    "analysis": {"training", "balancing", "model", "data", "files"},
    "pages": {"figures", "metrics", "analysis", "runs", "balancing", "data", "files"},
    "comparison": {"pages", "analysis", "figures", "metrics", "runs", "cli"},
    "dashboard": {"runs", "errors"},
    "notebooks": {"errors"},
    "loading": {"device", "interop", "runs", "cli", "data", "model", "errors", "files"},
    # one run, many runs
    "session": {
        *("loading", "pages", "analysis", "callbacks", "loggers", "runs", "device", "training", "balancing", "model"),
        *("metrics", "data", "terminal", "ranks", "cli", "cores", "errors", "files"),
    },
    "sweeps": {"session", "callbacks", "runs", "terminal", "cli", "cores", "errors", "files"},
    "machine": {"__init__", "session", "training", "model", "cli", "cores"},
    # the verbs, and their table
    "train": {"sweeps", "session", "callbacks", "ranks", "cli", "errors"},
    "evaluate": {"session", "loading", "analysis", "data", "terminal", "cli", "errors", "files"},
    "request": {"model", "errors"},
    "conversation": {"data", "terminal", "cli", "errors"},
    "sample": {"conversation", "request", "loading", "model", "data", "terminal", "cli", "errors"},
    "report": {"session", "terminal", "cli", "files"},
    "compare": {"comparison", "runs", "terminal", "cli", "errors", "files"},
    "export": {
        "__init__",
        "session",
        "comparison",
        "loading",
        "interop",
        "runs",
        "model",
        "data",
        "terminal",
        "cli",
        "files",
    },
    "doctor": {"machine", "terminal", "cli", "errors", "files"},
    "__main__": {"__init__", "cli", "ranks", "errors"},
}
"""What each file and folder of the top level may see beside itself, from the ground up: only what stands above it."""

THIRD_PARTY = {
    "model": {"torch"},
    "balancing": {"torch", "numpy"},
}
"""What else the folders may import that can be lifted out and used alone."""


def imported(source: str, package: str) -> Iterator[str]:
    """Every module that ``source``, of the package ``package``, imports: at the top, inside functions, relatively
    or by a constant name. ``from a import b`` gives ``a.b``, as b may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(file: Path) -> list[str]:
    package = ".".join(("s15erav3", *file.relative_to(PACKAGE).parent.parts))
    return list(imported(file.read_text(), package))


def parts_seen(file: Path) -> set[str]:
    """The places of the top level that a file imports; ``from s15erav3 import __version__`` is the package itself."""
    known = {p.stem if p.suffix == ".py" else p.name for p in PACKAGE.iterdir()}
    names = [name.split(".")[1] for name in imports_of(file) if name.startswith("s15erav3.")]
    return {name if name in known else "__init__" for name in names}


def floor(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(file: Path) -> str:
    return ".".join(("s15erav3", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def named(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_the_reader_of_imports_sees_every_kind() -> None:
    """A checker that overlooks an import lets everything pass."""
    source = """
import a.b, c as d
from e.f import g
from . import h
from .i import j
from ..k import l
def late():
    from m import n
    import importlib
    importlib.import_module("o.p")
    __import__("q")
if TYPE_CHECKING:
    from r import s
"""
    expected = {"a.b", "c", "e.f.g", "x.y.h", "x.y.i.j", "x.k.l", "m.n", "importlib", "o.p", "q", "r.s"}
    assert set(imported(source, "x.y")) == expected


def test_every_place_has_its_floor() -> None:
    """What no rule names would be exempt; a rule for a folder that was renamed guards nothing."""
    assert set(FLOORS) == {floor(file) for file in files()}


def test_no_rule_allows_a_circle() -> None:
    """Each place may see only what stands before it in the table."""
    below: set[str] = set()
    for place, may_see in FLOORS.items():
        assert may_see <= below, place
        below.add(place)


@pytest.mark.parametrize("file", files(), ids=named)
def test_no_file_sees_a_floor_above_its_own(file: Path) -> None:
    """A model that knows its trainer cannot be used without it; cycles come next."""
    assert parts_seen(file) - {floor(file)} <= FLOORS[floor(file)]


def test_no_two_modules_import_each_other() -> None:
    """Nor do three in a ring, be it within a folder or by an import inside a function."""
    modules = {module_of(file): file for file in files()}
    seen = {name: {m for i in imports_of(file) for m in (i, i.rpartition(".")[0])} for name, file in modules.items()}
    list(TopologicalSorter({name: (found & modules.keys()) - {name} for name, found in seen.items()}).static_order())


def test_no_permission_is_left_over() -> None:
    """A rule that allows more than is used lets the next upward import pass."""
    used: dict[str, set[str]] = {place: set() for place in FLOORS}
    for file in files():
        used[floor(file)] |= parts_seen(file) - {floor(file)}
    assert used == FLOORS


@pytest.mark.parametrize("folder", THIRD_PARTY)
def test_what_can_be_lifted_out_needs_torch_alone(folder: str) -> None:
    """The model, and the rules that balance it, must run where Lightning, Hydra and W&B are not installed."""
    for file in (PACKAGE / folder).rglob("*.py"):
        others = {name.split(".")[0] for name in imports_of(file)} - {"s15erav3"} - sys.stdlib_module_names
        assert others <= THIRD_PARTY[folder], named(file)


def test_importing_the_package_itself_costs_nothing() -> None:
    """``s15erav3.model`` imports ``s15erav3`` first: whatever that imports, the model needs as well."""
    for file in (PACKAGE / "__init__.py", PACKAGE / "errors.py"):
        assert {name.split(".")[0] for name in imports_of(file)} <= sys.stdlib_module_names


def test_lightning_and_hydra_stay_out_of_the_data_files_but_the_data_module() -> None:
    """Corpora and tokenizers are used by scripts that train nothing."""
    for file in (PACKAGE / "data").glob("*.py"):
        roots = {name.split(".")[0] for name in imports_of(file)}
        assert not roots & {"hydra", "omegaconf", "wandb"}, named(file)
        assert "lightning" not in roots or file.name == "datamodule.py", named(file)


@pytest.mark.slow
def test_model_and_balancing_run_where_nothing_else_is_installed() -> None:
    """The reader of imports sees names; this sees what really happens, one import through another."""
    script = """
import sys
for name in ("lightning", "hydra", "omegaconf", "wandb", "torchmetrics", "transformers", "tiktoken", "rich"):
    sys.modules[name] = None  # an import of it raises
import torch
from s15erav3.balancing import LossFree
from s15erav3.balancing.base import update_biases, stack_loads
from s15erav3.model import ModelConfig, Transformer, routers
from s15erav3.model.generate import generate
from s15erav3.model.sampling import Sampling
net = Transformer(ModelConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=1, kv_lora_rank=4,
    qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, intermediate_size=8, n_routed_experts=2,
    num_experts_per_tok=1))
update_biases(routers(net), LossFree(0.1).bias_update(stack_loads(net(torch.tensor([[1, 2, 3]])).routings), 0.0))
print(generate(net, [[1]], lambda _, token: True, max_new_tokens=3, sampling=Sampling(), seed=0, context=8).tokens)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "3"
