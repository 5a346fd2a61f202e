"""A strategy in a package of one's own, exactly as the README shows it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from s15erav3.__main__ import main
from tests.balancing.runs import COMMON, STEPS
from tests.conftest import ROOT
from tests.tiny import TINY, result, rows


def shown() -> dict[str, str]:
    """The files in the README's section on strategies, by the name in the first line of each."""
    section = (ROOT / "README.md").read_text().split("**A balancing strategy**", 1)[1]
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml)).*?\n(.*?)```", section, flags=re.DOTALL)
    return dict(blocks)


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with those files, on the path."""
    for name, text in shown().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mine", None)


def test_the_readme_shows_a_class_and_a_file() -> None:
    """About twenty lines are enough, and both files are there to be copied."""
    files = shown()
    assert set(files) == {"mine.py", "my_conf/balancing/rescue.yaml"}
    assert len(files["mine.py"].splitlines()) <= 20


def test_a_strategy_from_another_package_trains_combines_and_resumes(own_package: Path) -> None:
    """By ``hydra.searchpath`` and ``_target_``, with an add-on of this package beside it. Seen to fail with
    ``build_balancer`` that hands add-ons on to the strategy, and with one that leaves them out."""
    search, run_dir = f"hydra.searchpath=[file://{own_package / 'my_conf'}]", own_package / "run"
    chosen = [search, "balancing=rescue", "balancing.below=0.9", "balancing.z_loss=1e-3"]
    assert main(["train", *TINY, *COMMON, *chosen, f"hydra.run.dir={run_dir}"]) == 0
    lines = rows(run_dir / "balance.jsonl")
    assert len(lines) == STEPS
    loads = torch.tensor([line["load"] for line in lines])
    low = loads < 0.9 * loads.double().mean(dim=-1, keepdim=True)
    assert low.any() and not low.all()
    torch.testing.assert_close(torch.tensor([line["update"] for line in lines]), 0.01 * low.float())
    assert result(run_dir)["train/balance_loss"] > 0
    assert main(["train", f"resume={run_dir}", f"trainer.max_steps={STEPS + 1}", "trust=mine"]) == 0
    assert len(rows(run_dir / "balance.jsonl")) == STEPS + 1
