"""Prepare a composed config for use: parse interpolated values and check the config against the schema."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from s15erav3.cli.schema.check import check
from s15erav3.cli.schema.tree import fields, parts
from s15erav3.cli.schema.wording import is_text


def read_interpolated(cfg: DictConfig, verb: str) -> None:
    """Parse strings that come from interpolations such as ``${oc.env:SEED}``, where a setting is not a text.

    They are parsed as if typed on the command line.
    """
    for _, node, settings in parts(verb, cfg):
        for key, annotation in fields(settings).items() if isinstance(node, DictConfig) else ():
            if key not in node or is_text(annotation) or not OmegaConf.is_interpolation(node, key):
                continue
            text = node[key]
            if not isinstance(text, str):
                continue
            try:
                value = OverridesParser.create().parse_override(f"x={text}").value()
            except HydraException:
                continue
            if isinstance(value, int | float | None):
                node[key] = value


def check_settings(cfg: DictConfig, verb: str) -> None:
    """Refuse a config that does not fit the schema; see :func:`s15erav3.cli.schema.check.check`.

    Raises:
        UserError: names the first setting that does not fit.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    check(plain, verb)
