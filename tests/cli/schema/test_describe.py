"""The help of groups, against the packaged files read by themselves."""

from __future__ import annotations

import re

import pytest
import yaml

from s15erav3.cli.schema.describe import MORE, describe, groups, overview
from s15erav3.cli.schema.tree import VERBS, fields
from s15erav3.cli.trust import conf_dir

CHOSEN = [
    part for part in yaml.safe_load((conf_dir() / "train.yaml").read_text())["defaults"] if isinstance(part, dict)
]
DEFAULTS = {group: choice for part in CHOSEN for group, choice in part.items() if choice and " " not in group}


def test_the_overview_has_every_group_with_its_choices_and_a_line() -> None:
    """A group or file that was added must appear by itself."""
    told = overview("train", conf_dir())
    folders = {file.parent.relative_to(conf_dir()).as_posix() for file in conf_dir().rglob("*.yaml")}
    assert {name for name in folders if name != "." and not name.startswith("hydra")} <= groups("train").keys()
    for name, group in groups("train").items():
        line = next(line for line in told.splitlines() if line.split()[:1] == [name])
        assert line.endswith(group.says) and len(group.says) > 10
        choices = {file.stem for file in (conf_dir() / name).glob("*.yaml")}
        shown = {word.rstrip("*") for word in re.findall(r"\S+", told)}
        assert choices <= shown, name
    for name, choice in DEFAULTS.items():
        assert re.search(rf"^{name}\b.*\n( .*\n)*? .*\b{choice}\*", told, re.MULTILINE), name
    assert "  seed=1 " in told and "  resume=null " in told


@pytest.mark.parametrize("name", [*groups("train")])
def test_a_group_is_told_with_every_setting_its_default_and_its_range(name: str) -> None:
    """Each has a line with the default of the default choice and one with what it is for."""
    told = describe("train", name, conf_dir())
    assert max(map(len, told.splitlines())) <= 160
    group = groups("train")[name]
    for settings in (group.settings, *group.by_target.values()):
        for key in fields(settings) if settings else ():
            assert re.search(rf"^  {name.replace('/', '.')}\.{key}(=\S*)? +\S.*\n      \S", told, re.MULTILINE), key
    for member, (_, settings) in group.members.items():
        assert all(f"  {name.replace('/', '.')}.{member}.{key}" in told for key in fields(settings))
    if name in DEFAULTS and not group.members:
        content = yaml.safe_load((conf_dir() / name / f"{DEFAULTS[name]}.yaml").read_text())
        for key, value in content.items():
            if not key.startswith("_") and isinstance(value, int) and not isinstance(value, bool):
                assert f"  {name}.{key}={value} " in told


def test_the_defaults_are_those_of_the_choice_that_is_asked_for() -> None:
    """``--help experts experts=e16``; what a choice is made of counts, too."""
    assert "experts.n_routed_experts=8 " in describe("train", "experts", conf_dir())
    assert "experts.n_routed_experts=16 " in describe("train", "experts", conf_dir(), "e16")
    assert "balancing.rate=0.1 " in describe("train", "balancing", conf_dir(), "original")
    assert "balancing.alpha=0.01 " in describe("train", "balancing", conf_dir(), "switch")
    assert "trainer.accelerator=cpu " in describe("train", "trainer", conf_dir(), "cpu")
    assert "trainer.rank_timeout=600 " in describe("train", "trainer", conf_dir(), "cpu")
    assert "callbacks.samples.max_new_tokens=0 " in describe("train", "callbacks", conf_dir(), "none")


def test_a_setting_of_other_choices_says_whose_it_is() -> None:
    """``balancing.kappa`` is refused with ``loss_free``."""
    told = describe("train", "balancing", conf_dir())
    kappa = told[told.index("balancing.kappa") :].splitlines()
    assert kappa[1].endswith("(with smebu)") and kappa[0].split()[0] == "balancing.kappa=2.0"
    assert re.search(r"balancing.alpha=0.01 .*\n.*\(with aux, switch\)", told)
    assert re.search(r"balancing.alpha=0.1 .*\n.*\(with simbal\)", told)
    rate = told[told.index("balancing.rate") :].splitlines()
    assert "(with" not in rate[1]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_the_other_verbs_are_told(verb: str) -> None:
    """All of their settings stand in the overview, but for those of groups."""
    told = overview(verb, conf_dir())
    content = yaml.safe_load((conf_dir() / f"{verb}.yaml").read_text())
    for key, value in content.items():
        if key not in ("defaults", "hydra"):
            assert re.search(rf"^(  )?{key}\b", told, re.MULTILINE), key
        if isinstance(value, int) and not isinstance(value, bool):
            assert f"  {key}={value} " in told
    assert not set(MORE) & set(groups(verb))
