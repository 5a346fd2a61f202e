"""Checks shared by all parts of a model's config."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Set
from typing import Any


class ConfigError(ValueError):
    """A model that cannot be built; the message names the keys, their values and the remedy."""


def checked_keys(cls: type, values: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return ``values`` after checking that every key is known and every required key is present."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"'{key}' is not a setting of {whose}{hint}")
    missing = [n for n, f in fields.items() if n not in values and f.default is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"{whose} lacks a value for {', '.join(missing)}")
    return dict(values)


def check_types(config: Any, may_be_zero: Set[str], prefix: str = "") -> None:
    """Reject fields of the wrong type and numbers that are negative, infinite or (unless allowed) 0."""
    for field in dataclasses.fields(config):
        name, value, kind = prefix + field.name, getattr(config, field.name), str(field.type)
        if value is None and "None" in kind:
            continue
        if kind == "bool":
            if not isinstance(value, bool):
                raise ConfigError(f"{name}={value!r} must be true or false")
            continue
        if "int" not in kind and "float" not in kind:
            continue  # checked where it is constructed, or against its choices
        if isinstance(value, bool) or not isinstance(value, int if "int" in kind else (int, float)):
            raise ConfigError(f"{name}={value!r} must be {'a whole' if 'int' in kind else 'a'} number")
        zero_allowed = field.name in may_be_zero
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero_allowed):
            bound = "0 or more" if zero_allowed else "greater than 0"
            raise ConfigError(f"{name}={value} must be {bound}{'' if 'int' in kind else ' and finite'}")


WORDS = {
    "scoring_func": ("sigmoid", "softmax", "sqrtsoftplus", "relu"),
    "router_init": ("normal", "orthogonal"),
    "topk_method": ("noaux_tc", "expert_choice", "hash", "threshold", "zero_experts"),
    "bias_form": ("sum", "product", "logits"),
}
"""Settings that take one of some words."""


def check_words(config: object) -> None:
    """Check the settings of ``WORDS``.

    Raises:
        ConfigError: a word is unknown.
    """
    for name, words in WORDS.items():
        if getattr(config, name) not in words:
            raise ConfigError(f"{name}={getattr(config, name)} must be one of {', '.join(words)}")
