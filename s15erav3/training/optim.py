"""Optimizers: AdamW, and Muon for matrices combined with AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw as adamw_step

from s15erav3.model.experts import RoutedExperts
from s15erav3.model.router import Router
from s15erav3.training.shards import divided, from_own, own, whole

Group = dict[str, Any]


def _roles(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by role: ``embedding`` (table and head), ``router``, ``matrix``, ``vector``.

    A parameter used twice (a tied head) appears once. An assertion checks that every parameter has a role.
    """
    roles: dict[str, list[nn.Parameter]] = {"embedding": [], "router": [], "matrix": [], "vector": []}
    seen: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            if isinstance(module, nn.Embedding) or name.endswith("lm_head"):
                roles["embedding"].append(parameter)
            elif isinstance(module, Router):
                roles["router"].append(parameter)
            elif parameter.ndim == 1:
                roles["vector"].append(parameter)
            elif isinstance(module, nn.Linear | RoutedExperts):
                roles["matrix"].append(parameter)
            else:
                raise AssertionError(f"no optimizer group claims a parameter of {name} ({type(module).__name__})")
    assert seen == {p for p in model.parameters() if p.requires_grad}
    return roles


def adamw(
    model: nn.Module,
    *,
    lr: float,
    betas: Iterable[float],
    eps: float,
    weight_decay: float,
    decay_embeddings: bool,
) -> Optimizer:
    """torch's fused AdamW (arXiv 1711.05101). Norms never decay; embeddings and head decay only on request."""
    first, second = betas
    roles = _roles(model)
    decayed, plain = roles["matrix"] + roles["router"], roles["vector"]
    (decayed if decay_embeddings else plain).extend(roles["embedding"])
    groups: list[Group] = [
        {"params": decayed, "weight_decay": weight_decay, "initial_lr": lr},
        {"params": plain, "weight_decay": 0.0, "initial_lr": lr},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(first, second), eps=eps, fused=True)


def muon(
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    adamw_lr: float,
    betas: Iterable[float],
    eps: float,
    adamw_weight_decay: float,
    decay_embeddings: bool,
    router: str,
    bf16: bool,
) -> Optimizer:
    """Muon for the matrices; AdamW for embeddings, head, norms and, with ``router=adamw``, the router."""
    first, second = betas
    roles = _roles(model)
    by_muon = roles["matrix"] + (roles["router"] if router == "muon" else [])
    decayed, plain = roles["router"] if router == "adamw" else [], roles["vector"]
    (decayed if decay_embeddings else plain).extend(roles["embedding"])
    gate_up = {m.gate_up_proj for m in model.modules() if isinstance(m, RoutedExperts)}
    # "fused" also makes torch load the step counters onto the device, where the fused step needs them.
    by_adamw = {
        "rule": "adamw",
        "fused": True,
        "lr": adamw_lr,
        "initial_lr": adamw_lr,
        "betas": (first, second),
        "eps": eps,
    }
    groups: list[Group] = [
        {
            "params": by_muon,
            # Number of matrices stacked in one slice: 2 for an expert's gate and up matrix.
            "stacked": [2 if p in gate_up else 1 for p in by_muon],
            "rule": "muon",
            "lr": lr,
            "initial_lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "bf16": bf16,
        },
        by_adamw | {"params": decayed, "weight_decay": adamw_weight_decay},
        by_adamw | {"params": plain, "weight_decay": 0.0},
    ]
    return MuonAdamW([g for g in groups if g["params"]])


class MuonAdamW(Optimizer):
    """Muon and AdamW in one optimizer, with one step counter, one state to save and one ``step()`` for Lightning.

    A group with ``rule="muon"`` uses momentum, Nesterov's look-ahead and the orthogonalised update
    (Muon, arXiv 2502.16982, eq. 4)

        W <- W - lr (0.2 sqrt(max(A, B)) NewtonSchulz(M) + weight_decay W),

    whose size matches AdamW's, per (A, B) matrix: a stack of experts counts as many matrices, a fused gate and
    up projection as two. A group with ``rule="adamw"`` uses torch's fused AdamW step.
    """

    found_inf: Tensor | None = None
    """Same meaning as in torch's fused optimizers: a scalar on the device; if it is 1, a step does nothing."""

    def __init__(self, groups: list[Group]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._muon(group) if group["rule"] == "muon" else self._adamw(group)
        return loss

    def _muon(self, group: Group) -> None:
        bad = None if self.found_inf is None else self.found_inf.bool()
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for parameter, stacked in zip(group["params"], group["stacked"], strict=True):
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            # Moving the momentum towards itself leaves it unchanged.
            grad, average = own(parameter.grad), own(state["momentum"])
            grad = grad if bad is None else torch.where(bad, average, grad)
            average.lerp_(grad, 1 - group["momentum"])
            update = grad.lerp(average, group["momentum"])
            if parameter.ndim == 2:  # a rank has whole matrices of a sharded stack, but rows of a single one
                update = whole(from_own(update, parameter))
            shape = (parameter.shape[-2] // stacked, parameter.shape[-1])
            by_shape.setdefault(shape, []).append((parameter, update.view(-1, *shape)))
        for (rows, columns), members in by_shape.items():
            updates = newton_schulz(torch.cat([u for _, u in members]), bf16=group["bf16"])
            keep: float | Tensor = 1 - group["lr"] * group["weight_decay"]
            if bad is not None:
                updates, keep = updates.masked_fill(bad, 0.0), torch.where(bad, 1.0, keep)
            size = group["lr"] * 0.2 * math.sqrt(max(rows, columns))
            for (parameter, _), update in zip(members, torch.split(updates, [len(u) for _, u in members]), strict=True):
                part = own(parameter)
                if parameter.ndim == 2:
                    update = own(divided(update.reshape(parameter.shape), parameter))
                part.mul_(keep)
                part.add_(update.reshape(part.shape), alpha=-size)

    def _adamw(self, group: Group) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        for parameter in params:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[p] for p in params]
        adamw_step(
            params,
            [p.grad for p in params if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def newton_schulz(matrices: Tensor, *, bf16: bool, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix towards 1: (n, A, B) -> (n, A, B).

    Five steps of X <- a X + (b X X^T + c (X X^T)^2) X with Muon's coefficients bring every
    singular value into about 0.7 to 1.2. ``bf16`` computes in bf16, which the iteration tolerates.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if bf16 else matrices
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
