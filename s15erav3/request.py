"""The request of ``s15erav3 sample``: prompts and sampling settings."""

from __future__ import annotations

import sys
from functools import cache
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig

from s15erav3.errors import UserError
from s15erav3.model.sampling import Sampling


class Request(NamedTuple):
    """Settings shared by all sequences."""

    prompts: list[str]
    sampling: Sampling
    max_new_tokens: int
    samples: int
    stop: list[str]
    seed: int
    speculative: bool
    compiled: bool
    int8: bool


def asked(cfg: DictConfig) -> Request:
    """Convert settings that fit the schema to a request.

    Raises:
        UserError: standard input is not text.
    """
    sampling = Sampling(cfg.temperature, cfg.top_k, cfg.top_p, cfg.min_p, cfg.repetition_penalty)
    prompts, stop = texts(cfg.prompt, from_input=True), texts(cfg.stop)
    return Request(
        prompts, sampling, cfg.max_new_tokens, cfg.samples, stop, cfg.seed, cfg.speculative, cfg.compile, cfg.int8
    )


def texts(value: object, *, from_input: bool = False) -> list[str]:
    """The texts of a setting that takes one or several.

    Args:
        from_input: whether ``-`` means all of standard input.
    """
    if value is None:
        return []
    if from_input and value == "-":
        return [standard_input()]
    return [str(text) for text in value] if isinstance(value, ListConfig) else [str(value)]


@cache
def standard_input() -> str:
    """The whole of standard input, read once.

    Raises:
        UserError: it is not text.
    """
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"prompt=- must be UTF-8, but byte {error.start} of standard input is not; convert it to UTF-8."
        ) from error
