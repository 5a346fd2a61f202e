"""What the values of a composed config must be, by those that the packaged config gives them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from s15erav3.cli.overrides import PATHS, TEXTS
from s15erav3.cli.trust import choices, conf_dir
from s15erav3.errors import UserError, check_flag, check_number

FRACTIONS = (
    *("data.max_epochs", "trainer.max_epochs", "context_extension"),
    *("logger.wandb.init_timeout", "logger.wandb.finish_timeout"),
)
"""Numbers whose packaged value is whole, which others need not be."""

OR_NULL = ("trainer.max_steps", "trainer.max_epochs", "data.max_epochs")
"""Numbers that may also be left out by null, which no packaged file does."""

OR_WORD = {"logger.wandb.log_model": ("best", "last"), "trainer.deterministic": ("warn",)}
"""Flags that may also be one of these words."""

NULL: dict[str, type] = {
    "callbacks.checkpoint.keep_every_n_steps": int,
    "data.sequence_length": int,
    "optimizer.bf16": bool,
}
"""What those are that a packaged file, or all of them, have as null."""

PAIRS = ("optimizer.betas",)
"""Lists of two numbers from 0 to below 1."""

MOST = {
    "balancing.rounds": 1000,
    "callbacks.samples.max_new_tokens": 10**6,
    "data.batch_size": 2**16,
    "data.eval_batch_size": 2**16,
    "data.num_workers": 2**10,
    "data.vocab_size": 2**20,
    "eval_batch_size": 2**16,
    "max_new_tokens": 10**6,
    "samples": 2**16,
    "tokenizer.vocab_size": 2**20,
    "trainer.accumulate_grad_batches": 2**16,
    "trainer.devices": 2**10,
}
"""Where more is a slip of the hand, and would fill the memory or never end."""

ELSEWHERE = ("model", "experts")
"""Groups whose words :class:`s15erav3.model.ModelConfig` refuses."""

LARGEST = 2**63 - 1
"""What tensors, seeds and counters hold."""


def read_interpolated(cfg: DictConfig, verb: str) -> None:
    """Put values in the place of texts that interpolations gave, as ``${oc.env:SEED}``, where no text is meant: they
    are read as if they had been typed."""
    known = defaults(conf_dir(), verb)
    for node, key, name in _leaves(cfg):
        kinds = known.get(name, frozenset())
        if not kinds or str in kinds or name in (*PATHS, *TEXTS) or not OmegaConf.is_interpolation(node, key):
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
    """Refuse what is no number, no flag or nothing where the packaged config has a number or a flag.

    Raises:
        UserError: with key and value.
    """
    known = defaults(conf_dir(), verb)
    for node, key, name in _leaves(cfg):
        kinds = known.get(name, frozenset())
        if name in PAIRS:
            _check_pair(name, node[key])
        if not kinds & {int, float, bool} or OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if value is None and (type(None) in kinds or name in OR_NULL):
            continue
        if isinstance(value, str | ListConfig) and (str in kinds or value in OR_WORD.get(name, ())):
            continue
        if isinstance(value, str) and name.partition(".")[0] in ELSEWHERE:
            continue
        if kinds & {int, float}:
            whole = float not in kinds and name not in FRACTIONS and not name.startswith("model.rope_scaling.")
            check_number(name, value, whole=whole, at_most=MOST.get(name))
            if isinstance(value, int) and abs(value) > LARGEST:
                raise UserError(f"{name}={value} is too large a number; the largest is {LARGEST}.")
            if value and abs(value) < sys.float_info.min:
                raise UserError(f"{name}={value} is too small a number; the smallest above 0 is {sys.float_info.min}.")
        else:
            check_flag(name, value, *OR_WORD.get(name, ()))


def _check_pair(name: str, value: Any) -> None:
    if not isinstance(value, ListConfig) or len(value) != 2:
        raise UserError(f"{name}={value} must be a list of two numbers, as [0.9,0.95].")
    for i, number in enumerate(value):
        check_number(f"{name}[{i}]", number, at_least=0, below=1)


@cache
def defaults(folder: Path, name: str) -> dict[str, frozenset[type]]:
    """Every dotted key of the config ``name`` in ``folder``, with the types that its files give it.

    A key whose default is that of another, ``${other.key}``, is of its types; of other interpolations none is known.
    """
    found: dict[str, set[type]] = {}
    alias: dict[str, str] = {}
    for file in folder.rglob("*.yaml"):
        group = file.parent.relative_to(folder).as_posix()
        if group == "." and file.stem != name:
            continue
        everywhere = "@package _global_" in file.read_text().partition("\n")[0]
        prefix = "" if group == "." or everywhere else group + "."
        for key, value in _flat(OmegaConf.to_container(OmegaConf.load(file))):
            if key.startswith(("_", "defaults")):
                continue
            kinds = found.setdefault(prefix + key, set())
            if not isinstance(value, str) or "${" not in value:
                kinds.add(type(value))
            elif value.strip("${}").replace(".", "").isidentifier():
                alias[prefix + key] = value.strip("${}")
    for key in NULL.keys() & found.keys():
        found[key].add(NULL[key])
    return {key: frozenset(kinds | found.get(alias.get(key, ""), set())) for key, kinds in found.items()}


def _flat(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{above}{key}", value
        yield from _flat(value, f"{above}{key}.")


def _leaves(node: DictConfig, above: str = "") -> Iterator[tuple[DictConfig, Any, str]]:
    """The node, key and dotted name of every value; those that configure somebody else's code are left out."""
    for key in list(node):
        name = f"{above}{key}"
        below = node._get_node(key)
        yield node, key, name
        if not isinstance(below, DictConfig) or below._is_none() or below._is_missing() or below._is_interpolation():
            continue
        if name != "hydra" and below.get("_target_") in (None, *choices(name.partition(".")[0])):
            yield from _leaves(below, f"{name}.")
