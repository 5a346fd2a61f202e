"""Check that a checkpoint holds everything needed to resume, before any file of the run is moved or overwritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from packaging.version import Version
from torch import Tensor
from torch.optim import Optimizer

from s15erav3.callbacks.run_state import collect_rng, restore_rng
from s15erav3.data.datamodule import CommentaryData
from s15erav3.errors import UserError, one_line
from s15erav3.runs.checkpoint import Payload
from s15erav3.training.module import LanguageModule
from s15erav3.training.optim import MuonAdamW

STATE = {"adamw": {"step", "exp_avg", "exp_avg_sq"}, "muon": {"momentum"}}
"""State that the optimizers of this program keep per parameter. Fused kernels do not check its shapes."""


def rehearse(payload: Payload, file: Path, data: CommentaryData, module: LanguageModule, trainer: L.Trainer) -> None:
    """Load every part of a checkpoint, as Lightning will do again later.

    Raises:
        UserError: a part is missing or malformed, or the optimizer differs.
    """
    parts: dict[str, Callable[[Any], None]] = {
        "pytorch-lightning_version": _version,
        "state_dict": lambda saved: _weights(saved, module),
        "loops": lambda saved: _loops(saved, trainer, payload["global_step"]),
        "callbacks": lambda saved: _callbacks(saved, trainer),
        "optimizer_states": lambda saved: _optimizer(saved, module, file),
        "lr_schedulers": lambda saved: must_be_like(saved, []),
        "rng": _generators,
        "seen": lambda saved: must_be_like(saved, {"samples": 0, "tokens": 0}),
        type(data).__qualname__: lambda saved: must_be_like(saved, {"samples_seen": 0, "tokens": ""}),
    }
    if "metrics" in payload:  # missing in checkpoints of earlier versions
        parts["metrics"] = lambda saved: must_be_like(saved, dict.fromkeys(saved, 0.0))
    for name, load in parts.items():
        try:
            load(payload[name])
        except UserError:
            raise
        except Exception as error:  # Lightning and torch may raise anything for a file of another program
            why = "it is missing" if name not in payload else f"{type(error).__name__}: {one_line(error)}"
            raise UserError(
                f"{file} cannot be resumed: its part '{name}' is not what this program writes ({why[:200]}); "
                f"give another .ckpt file, or start a new run from its weights: init_from={file}."
            ) from error


def must_be_like(saved: Any, fresh: Any, place: str = "it") -> None:
    """Compare the structure and types of saved containers with fresh ones.

    Integers are counts. Lists must be as long as the fresh one unless that is empty. ``None`` in ``fresh`` matches
    anything.

    Raises:
        ValueError: names the first difference.
    """
    good = True
    if isinstance(fresh, Mapping):
        good = isinstance(saved, Mapping) and fresh.keys() <= saved.keys()
        for key in fresh if good else ():
            must_be_like(saved[key], fresh[key], f"{place}.{key}")
    elif isinstance(fresh, list | tuple):
        good = isinstance(saved, list | tuple) and (not fresh or len(saved) == len(fresh))
        for i, value in enumerate(fresh if good else ()):
            must_be_like(saved[i], value, f"{place}[{i}]")
    elif isinstance(fresh, bool):
        good = isinstance(saved, bool)
    elif isinstance(fresh, int):
        good = isinstance(saved, int) and 0 <= saved < 2**63
    elif isinstance(fresh, float):
        good = isinstance(saved, int | float)
    elif isinstance(fresh, Tensor):
        good = isinstance(saved, Tensor) and (saved.dtype, saved.shape) == (fresh.dtype, fresh.shape)
    elif fresh is not None:
        good = isinstance(saved, type(fresh))
    if not good:
        raise ValueError(f"{place} is {str(saved)[:60]!r} where {str(fresh)[:60]!r} is expected")


def _version(saved: Any) -> None:
    if Version(saved).major < 2:
        raise ValueError(f"it is {saved}")


def _weights(saved: Any, module: LanguageModule) -> None:
    module.load_state_dict(saved)


def _loops(saved: Any, trainer: L.Trainer, step: int) -> None:
    loops = {"fit_loop": trainer.fit_loop, "validate_loop": trainer.validate_loop}
    for name, loop in loops.items():
        must_be_like(saved[name], loop.state_dict(), name)
        loop.load_state_dict(saved[name])
    for name, other in (("test_loop", trainer.test_loop), ("predict_loop", trainer.predict_loop)):
        other.load_state_dict(saved[name])
    counted = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed
    if counted != step:
        raise ValueError(f"they count {counted} steps, and global_step is {step}")


def _callbacks(saved: Any, trainer: L.Trainer) -> None:
    if not isinstance(saved, Mapping):
        raise TypeError(f"it is a {type(saved).__name__}")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback.state_key in saved:
            callback.load_state_dict(saved[callback.state_key])


def _generators(saved: Any) -> None:
    now = collect_rng()
    must_be_like(saved, now | {"cuda": []})
    try:
        restore_rng(saved)
    finally:
        restore_rng(now)


def _optimizer(saved: Any, module: LanguageModule, file: Path) -> None:
    (state,) = saved
    optimizer = module.make_optimizer(module.net)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if [len(group["params"]) for group in state["param_groups"]] != sizes:
        raise UserError(
            f"{file} was saved by an optimizer with other parameter groups than the group optimizer now makes; "
            "keep optimizer.decay_embeddings, optimizer.router and the kind of optimizer of the run."
        )
    if isinstance(optimizer, torch.optim.AdamW | MuonAdamW):
        _states(state, optimizer)
    optimizer.load_state_dict(state)


def _states(saved: Any, optimizer: Optimizer) -> None:
    """Compare the state of each parameter with the parameter's shape."""
    for group, its in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        wanted = STATE[group.get("rule", "adamw")] | ({"max_exp_avg_sq"} if group.get("amsgrad") else set())
        for parameter, number in zip(group["params"], its["params"], strict=True):
            kept = saved["state"].get(number)
            if kept is None:  # the parameter never had a gradient
                continue
            if kept.keys() != wanted:
                raise ValueError(f"of parameter {number} it keeps {', '.join(map(str, kept))}, not {sorted(wanted)}")
            for name, value in kept.items():
                shape = () if name == "step" else parameter.shape
                if value.shape != shape or not value.is_floating_point() or value.layout != torch.strided:
                    raise ValueError(f"{name} of parameter {number} is not a tensor of the shape {tuple(shape)}")
