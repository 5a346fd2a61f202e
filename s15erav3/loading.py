"""Load a trained model for use outside training, as in ``evaluate``, ``sample`` and ``export``."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from s15erav3.cli.hydra_setup import typed
from s15erav3.cli.overrides import key_of, literal
from s15erav3.cli.schema.check import check_part
from s15erav3.cli.schema.data import Data
from s15erav3.cli.schema.rules import parts_fit
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.device import choose_accelerator, choose_precision
from s15erav3.errors import UserError
from s15erav3.files import at_home
from s15erav3.interop.hf_folder import is_hub_folder, read_folder
from s15erav3.model import Transformer
from s15erav3.model.rope import Yarn
from s15erav3.runs.checkpoint import find_checkpoint, load_checkpoint, load_model

OWN = ("model", "experts", "tokenizer", "data.vocab_size", "experiment")
"""Settings that are taken from the loaded model."""


class Saved(NamedTuple):
    """A loaded net, on the CPU."""

    net: Transformer
    tokenizer: Tokenizer
    file: Path
    """The checkpoint, or the Hugging Face folder."""
    step: int
    sequence_length: int
    """Tokens per training window."""
    config: dict[str, Any]
    """Config of the run; empty for a Hugging Face folder."""


class Trained(NamedTuple):
    """A net in evaluation mode on its device."""

    net: Transformer
    saved: Saved
    device: torch.device
    precision: str
    sequence_length: int
    """Usable context length in tokens: the training length times the context extension."""

    def text(self) -> dict[str, Any]:
        """Settings of the run's own text, for :class:`CommentaryData`; empty for a Hugging Face folder.

        Raises:
            UserError: the settings stored in the checkpoint are invalid.
        """
        own = {key: value for key, value in self.saved.config.get("data", {}).items() if key != "max_epochs"}
        try:
            check_part("data", own, Data)
            parts_fit({"data": own})
        except UserError as error:
            raise UserError(f"{self.saved.file} does not name its text: {error}") from error
        return own

    @property
    def tokenizer(self) -> Tokenizer:
        """The net's own tokenizer."""
        return self.saved.tokenizer

    def autocast(self) -> AbstractContextManager[Any]:
        """Autocast context of the precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")


def load(place: str) -> Saved:
    """Read a checkpoint, the best checkpoint of a run's folder, or a Hugging Face folder.

    Raises:
        UserError: there is none, or it is unusable.
    """
    folder = at_home(place)
    if is_hub_folder(folder):
        net, tokenizer, length = read_folder(folder)
        return Saved(net, tokenizer, folder, 0, length, {})
    file = find_checkpoint(place)
    payload = load_checkpoint(file)
    net, tokenizer = load_model(payload, file)
    run = payload["run"]
    return Saved(net, tokenizer, file, payload["global_step"], run["sequence_length"], run["config"])


def restore(cfg: DictConfig) -> Trained:
    """Load ``cfg.checkpoint`` with the device and precision of ``cfg.trainer``, and extend its context.

    Raises:
        UserError: the checkpoint, the device or a setting is unusable.
    """
    device = choose_accelerator(cfg.trainer.accelerator)
    precision = choose_precision(cfg.trainer.precision, device)
    saved = load(str(cfg.checkpoint))
    net = extended(saved.net, cfg.context_extension, saved.sequence_length)
    length = int(saved.sequence_length * cfg.context_extension)
    return Trained(net.to(device).eval(), saved, torch.device(device), precision, length)


def adopt(cfg: DictConfig) -> Saved:
    """Load ``cfg.init_from`` and set the groups ``model``, ``experts`` and ``tokenizer`` from it.

    Raises:
        UserError: the checkpoint is unusable, or the user gave a setting that it determines.
    """
    for override in typed(HydraConfig.get()):
        key = key_of(override)
        if any(key == own or key.startswith(f"{own}.") for own in OWN):
            raise UserError(
                f"init_from={cfg.init_from} sets model, experts and tokenizer, so {override} has no effect; "
                "leave it out."
            )
    saved = load(str(cfg.init_from))
    values = saved.net.config.to_dict()
    with open_dict(cfg):
        for group in (cfg.model, cfg.experts):
            for key in group:
                group[key] = values[str(key)]
        cfg.tokenizer.name, cfg.tokenizer.vocab_size = saved.tokenizer.name, None
    cfg.init_from = literal(str(at_home(cfg.init_from).absolute()))
    return saved


def extended(net: Transformer, factor: float, trained_length: int) -> Transformer:
    """The same weights with a context ``factor`` times longer than ``trained_length``, by YaRN without training."""
    if factor == 1:
        return net
    config = net.config
    yarn = config.rope_scaling or Yarn(factor=1, original_max_position_embeddings=trained_length)
    config = dataclasses.replace(
        config,
        rope_scaling=dataclasses.replace(yarn, factor=yarn.factor * factor),
        max_position_embeddings=max(config.max_position_embeddings, int(trained_length * factor)),
    )
    with torch.device("meta"):
        longer = Transformer(config)
    longer.load_state_dict(net.state_dict(), assign=True)
    return longer
