"""Rules between settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from s15erav3.cli.schema.kinds import LARGEST
from s15erav3.errors import UserError

Config = Mapping[str, Any]


def own_sequences_fit(config: Config) -> None:
    """Apply :func:`sequences_fit`, unless ``init_from`` will replace the model settings."""
    if not config.get("init_from"):
        sequences_fit(config)


def sequences_fit(config: Config) -> None:
    """Require that a window fits the model's positions and is long enough for multi-token prediction."""
    length, model = config["data"].get("sequence_length"), config["model"]
    longest, ahead = model.get("max_position_embeddings"), model.get("num_nextn_predict_layers", 0)
    if None not in (length, longest) and length > longest:
        raise UserError(
            f"data.sequence_length={length} must be at most model.max_position_embeddings={longest}; lower the one or "
            "raise the other."
        )
    if length is not None and length <= ahead:
        raise UserError(
            f"data.sequence_length={length} must be greater than model.num_nextn_predict_layers={ahead}, or nothing is "
            "left to predict ahead; raise the one or lower the other."
        )


def parts_fit(config: Config) -> None:
    """Require that the hold-out leaves some text for training."""
    val, test = (config["data"].get(f"{name}_fraction", 0) for name in ("val", "test"))
    if val + test >= 1:
        raise UserError(
            f"data.val_fraction={val} must be less than 1 - data.test_fraction={test}, or nothing is left for training."
        )


def training_ends(config: Config) -> None:
    """Require at least one limit on the length of training."""
    limits = {name: config["trainer"].get(name) for name in ("max_steps", "max_epochs")}
    if all(limit in (None, -1) for limit in limits.values()):
        said = " and ".join(f"trainer.{name}={'null' if limit is None else limit}" for name, limit in limits.items())
        raise UserError(f"{said} set no end of training; at least one of them must be greater than 0.")


SHARDED = ("fsdp", "expert_parallel")
"""Values of ``trainer.strategy`` that divide a model over devices, and the groups ``trainer`` that set them."""


def copies_are_divided(config: Config) -> None:
    """Require a strategy that divides a model, where there are to be several divided copies of it."""
    replicas, strategy = (config["trainer"].get(name) for name in ("replicas", "strategy"))
    if replicas not in (None, 1) and strategy not in SHARDED:
        told = strategy if isinstance(strategy, str) else "ddp"
        raise UserError(
            f"trainer.replicas={replicas} needs trainer.strategy={' or '.join(SHARDED)}, which divide a copy of the "
            f"model over devices; with {told} every device has a copy: leave it out, or set trainer.replicas=1."
        )


def text_is_given(config: Config) -> None:
    """Require that the measured part matches the source of the text."""
    split, path = config.get("split"), config["data"].get("path")
    if path and split != "all":
        raise UserError(f"split={split} must be all, as a file given by data.path is evaluated whole.")
    if split == "all" and not path:
        raise UserError("split=all needs data.path=FILE; the run's own text is split into train, val and test.")


def seeds_are_held(config: Config) -> None:
    """Require that the seeds of all texts, counted from the first, are representable."""
    seed, samples = config.get("seed", 0), config.get("samples", 0)
    if seed > LARGEST - samples:
        raise UserError(f"seed={seed} must be at most {LARGEST - samples}, as each sample has its own seed.")


def speculation_is_greedy(config: Config) -> None:
    """Require greedy decoding of one text at a time for speculative decoding."""
    if not config.get("speculative"):
        return
    if config.get("temperature") != 0 or config.get("repetition_penalty") != 1:
        raise UserError(
            f"speculative=true decodes greedily, so temperature={config.get('temperature')} must be 0 and "
            f"repetition_penalty={config.get('repetition_penalty')} must be 1."
        )
    if config.get("compile") or config.get("samples") != 1:
        raise UserError(
            "speculative=true cannot be combined with compile=true or samples above 1; leave one of them out."
        )


def int8_is_alone(config: Config) -> None:
    """Refuse 8 bits per weight together with other ways of decoding."""
    for other in ("compile", "speculative"):
        if config.get("int8") and config.get(other):
            raise UserError(f"int8=true cannot be combined with {other}=true; leave one of them out.")


RULES: dict[str, tuple[Callable[[Config], None], ...]] = {
    "train": (own_sequences_fit, parts_fit, training_ends, copies_are_divided),
    "evaluate": (text_is_given,),
    "sample": (seeds_are_held, speculation_is_greedy, int8_is_alone),
    "report": (),
    "compare": (),
    "export": (),
    "doctor": (),
}
"""Rules by verb; each raises :class:`UserError`."""
