"""Strategies that decide part of ``experts.*``: what their files set, what is told of it, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from s15erav3.__main__ import main
from s15erav3.balancing import (
    Balancer,
    ExpertChoice,
    ExpertThreshold,
    Hash,
    LossFree,
    ReLURouting,
    SimBal,
    Switch,
    ZeroExperts,
)
from s15erav3.cli.trust import conf_dir
from tests.tiny import TINY, result, train


@pytest.mark.parametrize(
    ("choice", "strategy"),
    [
        ("switch", Switch),
        ("expert_choice", ExpertChoice),
        ("simbal", SimBal),
        ("hash", Hash),
        ("expert_threshold", ExpertThreshold),
        ("relu_routing", ReLURouting),
        ("zero_experts", ZeroExperts),
    ],
)
def test_the_files_set_what_the_strategies_say(choice: str, strategy: type[Balancer]) -> None:
    """Else the banner would tell another thing than what holds. Other strategies set nothing."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        plain, its = (compose("train", [f"balancing={name}", "experts=e16"]).experts for name in ("none", choice))
    changed = {key: value for key, value in its.items() if value != plain[key]}
    assert changed == dict(strategy.router_settings)
    others = [p for p in (Path(conf_dir()) / "balancing").glob("*.yaml") if "experts" in OmegaConf.load(p)]
    assert {p.stem for p in others} == {
        *("switch", "expert_choice", "simbal", "hash", "expert_threshold", "relu_routing", "zero_experts")
    }
    assert dict(LossFree.router_settings) == {}


def banner(said: str) -> str:
    """Its line on balancing, in one."""
    return " ".join(said.partition("balancing ")[2].partition("data  ")[0].split())


def test_the_banner_tells_what_is_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what the choice of experts had; of a resumed run, whose config has no choices left, the values alone."""
    small = ["trainer.max_steps=1", "callbacks=none"]
    assert train("experts=e16", "balancing=switch", *small, run_dir=tmp_path / "run") == 0
    assert banner(capsys.readouterr().err) == (
        "Switch, capacity_factor=1.25, sets experts.num_experts_per_tok=1 (e16: 3), experts.scoring_func=softmax "
        "(e16: sigmoid), experts.norm_topk_prob=false (e16: true)"
    )
    assert main(["train", f"resume={tmp_path / 'run'}", "trainer.max_steps=2"]) == 0
    assert banner(capsys.readouterr().err).endswith(
        "sets experts.num_experts_per_tok=1, experts.scoring_func=softmax, experts.norm_topk_prob=false"
    )
    assert train("experts=e16", *small, run_dir=tmp_path / "plain") == 0
    assert banner(capsys.readouterr().err) == "LossFree"


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["experts.num_experts_per_tok=2"], "experts.num_experts_per_tok=1"),
        (["experts.scoring_func=sigmoid"], "experts.scoring_func=softmax"),
        (
            ["experts.num_experts_per_tok=3", "experts.norm_topk_prob=true"],
            "experts.num_experts_per_tok=1 and experts.norm_topk_prob=false",
        ),
    ],
)
def test_what_contradicts_the_strategy_is_refused(
    typed: list[str], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one sentence, which names what was typed and what would hold; nothing of a run is left behind."""
    assert train("experts=e16", "balancing=switch", *typed, "trainer.max_steps=1", run_dir=tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert (
        line.startswith(f"error: {' and '.join(typed)} conflicts with balancing=switch") and f"sets {wanted} " in line
    )
    assert "leave that out" in line and not (tmp_path / "run").exists()


def test_what_agrees_with_the_strategy_is_not_refused(tmp_path: Path) -> None:
    """Typed though it would hold anyway."""
    same = ["experts.num_experts_per_tok=1", "experts.scoring_func=softmax"]
    assert train("experts=e8", "balancing=switch", *same, "trainer.max_steps=1", run_dir=tmp_path / "run") == 0


@pytest.mark.slow
def test_a_sweep_over_strategies_has_switch_among_them(tmp_path: Path) -> None:
    """As sweep=balancing; where the setting that contradicts it is swept, that job alone fails."""
    sweep = ["-m", *TINY, "trainer.max_steps=1", "balancing=none,switch"]
    assert main(["train", *sweep, f"hydra.sweep.dir={tmp_path / 'a'}", "experts=e8,e16"]) == 0
    assert [result(tmp_path / "a" / str(job))["status"] for job in range(4)] == ["completed"] * 4
    assert main(["train", *sweep, f"hydra.sweep.dir={tmp_path / 'b'}", "experts.num_experts_per_tok=2"]) == 2
    assert result(tmp_path / "b" / "0")["status"] == "completed"
    failed = result(tmp_path / "b" / "1")
    assert failed["status"] == "failed" and "conflicts with balancing=switch" in failed["reason"]


def test_a_rule_by_its_former_name_still_acts() -> None:
    """``bias_change`` until version 0.2: a strategy of one's own must not train without balancing, in silence."""
    with pytest.warns(DeprecationWarning, match="bias_change is now called bias_update"):
        rule = type("Mine", (Balancer,), {"bias_change": lambda self, loads, progress: loads + progress})
    assert rule().bias_update(1.0, 0.5) == 1.5
