"""What ``s15erav3 sample`` is asked for: prompts, and the settings of sampling."""

from __future__ import annotations

import sys
from functools import cache
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig

from s15erav3.cli.settings import LARGEST
from s15erav3.errors import UserError, check_flag, check_number
from s15erav3.model.sampling import Sampling


class Request(NamedTuple):
    """What is asked for, once for all sequences."""

    prompts: list[str]
    sampling: Sampling
    max_new_tokens: int
    samples: int
    stop: list[str]
    seed: int
    speculative: bool
    compiled: bool


def asked(cfg: DictConfig) -> Request:
    """The settings, checked.

    Raises:
        UserError: one of them is unusable.
    """
    check_number("max_new_tokens", cfg.max_new_tokens, at_least=1, whole=True)
    check_number("samples", cfg.samples, at_least=1, whole=True)
    check_number("seed", cfg.seed, at_least=0, at_most=LARGEST - cfg.samples, whole=True)
    for name in ("speculative", "compile"):
        check_flag(name, cfg[name])
    try:
        sampling = Sampling(cfg.temperature, cfg.top_k, cfg.top_p, cfg.min_p, cfg.repetition_penalty)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    prompts, stop = texts(cfg.prompt, from_input=True), texts(cfg.stop)
    if not prompts:
        raise UserError("prompt=[] holds no text; give one, or an empty one: prompt=''.")
    if cfg.speculative and (sampling.temperature != 0 or sampling.repetition_penalty != 1):
        raise UserError(
            f"speculative=true takes the likeliest tokens, so temperature={sampling.temperature} must be 0 and "
            f"repetition_penalty={sampling.repetition_penalty} must be 1."
        )
    if cfg.speculative and (cfg.compile or cfg.samples > 1):
        raise UserError(
            "speculative=true does not go with compile=true or samples above 1; leave the one or the other out."
        )
    return Request(prompts, sampling, cfg.max_new_tokens, cfg.samples, stop, cfg.seed, cfg.speculative, cfg.compile)


def texts(value: object, *, from_input: bool = False) -> list[str]:
    """The texts of a setting that takes one or several.

    Args:
        from_input: whether ``-`` stands for what standard input holds, all of it.
    """
    if value is None:
        return []
    if from_input and value == "-":
        return [standard_input()]
    return [str(text) for text in value] if isinstance(value, ListConfig) else [str(value)]


@cache
def standard_input() -> str:
    """All of it, read once.

    Raises:
        UserError: it is no text.
    """
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"prompt=- reads UTF-8 from standard input, and its byte {error.start} is none.") from error
