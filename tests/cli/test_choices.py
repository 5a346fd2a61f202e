"""conf/model and conf/experts say what sets a choice apart, conf/train.yaml what all of them have in common."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from s15erav3.cli.trust import conf_dir
from s15erav3.model import ModelConfig

COMMON = OmegaConf.load(conf_dir() / "train.yaml")
DEFAULTS = {"model": "nano", "experts": "e8"}
FILES = [file for group in DEFAULTS for file in sorted((conf_dir() / group).glob("*.yaml"))]


def own(file: Path) -> dict[str, object]:
    """What a choice's file sets, without Hydra's defaults list."""
    return {str(key): value for key, value in OmegaConf.load(file).items() if key != "defaults"}


def test_both_groups_give_every_dimension_once() -> None:
    """One that no file gives would silently be the model's own default."""
    keys = [{*COMMON[group], *own(conf_dir() / group / f"{name}.yaml")} for group, name in DEFAULTS.items()]
    assert keys[0] | keys[1] == {field.name for field in fields(ModelConfig)} - {"vocab_size"}
    assert not keys[0] & keys[1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_a_choice_is_whole_and_repeats_nothing(file: Path) -> None:
    """A width that one forgets cannot be composed; what equals the common value is said once."""
    group, common = file.parent.name, COMMON[file.parent.name]
    default = own(conf_dir() / group / f"{DEFAULTS[group]}.yaml")
    assert own(file).keys() | common.keys() == default.keys() | common.keys()
    assert not [key for key, value in own(file).items() if key in common and value == common[key]]
