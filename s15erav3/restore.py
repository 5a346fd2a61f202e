"""A trained model, ready to be used outside training: what ``evaluate`` and ``sample`` begin with."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from s15erav3.checkpoint import Payload, find_checkpoint, load_checkpoint, load_model
from s15erav3.cli import quote
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.device import choose_accelerator, choose_precision
from s15erav3.errors import UserError
from s15erav3.model import Transformer


class Trained(NamedTuple):
    """A net in evaluation mode with all that its checkpoint knows."""

    net: Transformer
    tokenizer: Tokenizer
    payload: Payload
    file: Path
    device: torch.device
    precision: str

    @property
    def run(self) -> dict[str, Any]:
        """Description of the run: ``config``, ``model``, ``tokenizer``, ``sequence_length``."""
        run: dict[str, Any] = self.payload["run"]
        return run

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision's context."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")


def restore(cfg: DictConfig) -> Trained:
    """Load ``cfg.checkpoint`` onto the device and precision of ``cfg.trainer``.

    Raises:
        UserError: the checkpoint or the device is unusable.
    """
    device = choose_accelerator(cfg.trainer.accelerator)
    precision = choose_precision(cfg.trainer.precision, device)
    file = find_checkpoint(str(cfg.checkpoint))
    payload = load_checkpoint(file)
    net, tokenizer = load_model(payload, file)
    return Trained(net.to(device).eval(), tokenizer, payload, file, torch.device(device), precision)


def with_checkpoint(verb: str, arguments: list[str]) -> list[str]:
    """Turn the leading ``CKPT`` of ``s15erav3 VERB CKPT ...`` into the setting ``checkpoint=CKPT``.

    Raises:
        UserError: no checkpoint is given.
    """
    if any(a.startswith("checkpoint=") for a in arguments) or any(a in ("-h", "--help") for a in arguments):
        return arguments
    if not arguments or arguments[0].startswith("-") or ("=" in arguments[0] and not Path(arguments[0]).exists()):
        raise UserError(f"{verb} needs a checkpoint first: s15erav3 {verb} RUN_DIR_OR_CKPT [SETTING=VALUE ...]")
    return [f"checkpoint={quote(arguments[0])}", *arguments[1:]]
