"""Parameter groups, and both rules of MuonAdamW against plain references."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s15erav3.model import Router, Transformer
from s15erav3.model.experts import RoutedExperts
from s15erav3.training.optim import MuonAdamW, adamw, muon, newton_schulz
from tests.training.parts import tiny_net

ADAMW = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.1, "decay_embeddings": False}
MUON = {
    "lr": 0.02,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "adamw_lr": 0.003,
    "betas": (0.8, 0.95),
    "eps": 1e-8,
    "adamw_weight_decay": 0.2,
    "decay_embeddings": False,
    "router": "adamw",
    "bf16": False,
}


def make_adamw(model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    return adamw(model, **{**ADAMW, **changes})


def make_muon(model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    return muon(model, **{**MUON, **changes})


MAKERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": make_adamw,
    "muon": make_muon,
    "muon_router": lambda m: make_muon(m, router="muon"),
}


def group_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    return next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


def random_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)


# --- groups -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("maker", MAKERS)
def test_every_parameter_is_in_exactly_one_group(maker: str, tied: bool) -> None:
    """A parameter in no group never learns; one in two groups (a tied head) steps twice."""
    model = tiny_net(tie_word_embeddings=tied, q_lora_rank=8)
    held = [id(p) for g in MAKERS[maker](model).param_groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("decay_embeddings", [True, False])
@pytest.mark.parametrize("maker", [make_adamw, make_muon])
def test_norms_never_decay_and_embeddings_only_if_asked(maker: Any, decay_embeddings: bool) -> None:
    """Decayed norms shrink the signal of every layer."""
    model = tiny_net(tie_word_embeddings=False, q_lora_rank=8)
    optimizer = maker(model, decay_embeddings=decay_embeddings)
    for name, parameter in model.named_parameters():
        decays = group_of(optimizer, parameter)["weight_decay"] > 0
        if "norm" in name:
            assert parameter.ndim == 1 and not decays, name
        elif name in ("embed_tokens.weight", "lm_head.weight"):
            assert decays == decay_embeddings, name
        else:
            assert parameter.ndim > 1 and decays, name


@pytest.mark.parametrize("router", ["adamw", "muon"])
def test_muon_takes_matrices_and_the_router_only_if_asked(router: str) -> None:
    """Orthogonalised embeddings and heads are a known mistake; for the router both are defended."""
    model = tiny_net(q_lora_rank=8)
    optimizer = make_muon(model, router=router)
    for name, parameter in model.named_parameters():
        group = group_of(optimizer, parameter)
        if ".router." in name:
            assert group["rule"] == router, name
        elif parameter.ndim == 1 or "embed" in name:
            assert group["rule"] == "adamw", name
        else:
            assert group["rule"] == "muon", name
        rate = 0.02 if group["rule"] == "muon" else 0.003
        assert group["lr"] == group["initial_lr"] == rate
        if group["weight_decay"]:
            assert group["weight_decay"] == (0.1 if group["rule"] == "muon" else 0.2)


def test_adamw_groups_carry_the_rate_that_schedules_multiply() -> None:
    """The module multiplies ``initial_lr``: without it the schedule would compound, or fail."""
    optimizer = make_adamw(tiny_net())
    assert all(g["initial_lr"] == g["lr"] == 0.01 and g["betas"] == (0.8, 0.95) for g in optimizer.param_groups)


def test_frozen_parameters_are_left_out() -> None:
    """Weight decay would move what was meant to stay."""
    model = tiny_net()
    model.embed_tokens.weight.requires_grad_(False)
    for maker in MAKERS.values():
        held = {id(p) for g in maker(model).param_groups for p in g["params"]}
        assert held == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_parameter_of_an_unknown_kind_is_a_bug(maker: str) -> None:
    """A new kind of layer must choose its rule; a silent default would orthogonalise or decay it."""

    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(3, 4))

    model = nn.ModuleDict({"net": tiny_net(), "new": Unknown()})
    with pytest.raises(AssertionError, match="new"):
        MAKERS[maker](model)


# --- the AdamW rule ---------------------------------------------------------------------------------------------


def test_the_adamw_rule_is_torchs_adamw() -> None:
    """Catches a missing bias correction, coupled decay, and state shared between groups."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((5, 3), (7,), (2, 3, 4))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    shared = {"rule": "adamw", "initial_lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}
    optimizer = MuonAdamW(
        [
            shared | {"params": ours[:1], "lr": 0.01, "weight_decay": 0.3},
            shared | {"params": ours[1:], "lr": 0.02, "weight_decay": 0.0},
        ]
    )
    reference = torch.optim.AdamW(
        [
            {"params": theirs[:1], "lr": 0.01, "weight_decay": 0.3},
            {"params": theirs[1:], "lr": 0.02, "weight_decay": 0.0},
        ],
        betas=(0.8, 0.95),
        eps=1e-6,
        foreach=False,
    )
    for step in range(6):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for group, other in zip(optimizer.param_groups, reference.param_groups, strict=True):
            group["lr"] = other["lr"] = 0.01 * (step + 1)
        optimizer.step()
        reference.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_adamw_factory_steps_like_torchs_adamw_of_the_same_groups() -> None:
    """Catches settings that never reach the optimizer."""
    model = tiny_net()
    other = copy.deepcopy(model)
    optimizer = make_adamw(model)
    decayed = [p for p in other.parameters() if p.ndim > 1 and p is not other.embed_tokens.weight]
    plain = [p for p in other.parameters() if p.ndim == 1 or p is other.embed_tokens.weight]
    reference = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=0.01,
        betas=(0.8, 0.95),
        eps=1e-8,
        foreach=False,
    )
    for seed in range(3):
        random_gradients(model, seed)
        random_gradients(other, seed)
        optimizer.step()
        reference.step()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


# --- the Muon rule ----------------------------------------------------------------------------------------------


def orthogonalised(matrix: Tensor) -> Tensor:
    """Muon's iteration on one matrix, written as in the paper."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class PlainMuon:
    """Muon on a list of single matrices."""

    def __init__(self, matrices: list[Tensor], lr: float, momentum: float, decay: float) -> None:
        self.matrices, self.lr, self.momentum, self.decay = matrices, lr, momentum, decay
        self.buffers = [torch.zeros_like(m) for m in matrices]

    def step(self, gradients: list[Tensor]) -> None:
        for matrix, buffer, gradient in zip(self.matrices, self.buffers, gradients, strict=True):
            buffer.copy_(self.momentum * buffer + (1 - self.momentum) * gradient)
            look_ahead = self.momentum * buffer + (1 - self.momentum) * gradient
            size = 0.2 * math.sqrt(max(matrix.shape))
            matrix.copy_(matrix - self.lr * (size * orthogonalised(look_ahead) + self.decay * matrix))


def slices(model: Transformer, tensors: dict[str, Tensor]) -> list[Tensor]:
    """Every single matrix of ``tensors``: experts one by one, their gate and up matrices apart."""
    found = []
    for name, tensor in tensors.items():
        if tensor.ndim == 3:
            for matrix in tensor:
                found += list(matrix.chunk(2)) if "gate_up" in name else [matrix]
        else:
            found.append(tensor)
    assert len({id(t) for t in found}) == len(found)
    return found


@pytest.mark.parametrize("router", ["adamw", "muon"])
def test_the_muon_rule_is_a_loop_over_single_matrices(router: str) -> None:
    """Catches a stack orthogonalised as one matrix, gate and up mixed, and sizes of the wrong shape."""
    model = tiny_net().double()
    optimizer = make_muon(model, router=router)
    chosen = {n: p for n, p in model.named_parameters() if group_of(optimizer, p)["rule"] == "muon"}
    assert any("gate_up" in n for n in chosen) and ("layers.1.mlp.router.weight" in chosen) == (router == "muon")
    copies = {n: p.detach().clone() for n, p in chosen.items()}
    reference = PlainMuon(slices(model, copies), 0.02, 0.9, 0.1)
    for seed in range(4):
        random_gradients(model, seed)
        reference.step(slices(model, {n: p.grad for n, p in chosen.items() if p.grad is not None}))
        optimizer.step()
        for name, parameter in chosen.items():
            torch.testing.assert_close(parameter.detach(), copies[name], rtol=1e-9, atol=1e-11, msg=name)


def test_an_update_of_muon_is_as_large_as_one_of_adamw() -> None:
    """0.2 sqrt(max(A, B)) gives a root mean square of about 0.2 per weight at every shape."""
    model = tiny_net().double()
    optimizer = make_muon(model, weight_decay=0.0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    random_gradients(model, 0)
    optimizer.step()
    for name, parameter in model.named_parameters():
        if group_of(optimizer, parameter)["rule"] == "muon":
            change = (parameter.detach() - before[name]) / 0.02
            assert 0.1 < change.square().mean().sqrt() < 0.3, name


def test_an_expert_without_gradient_only_decays() -> None:
    """An idle expert's zero gradient must not become noise of full size when it is normalised."""
    model = tiny_net().double()
    optimizer = make_muon(model)
    experts = next(m for m in model.modules() if isinstance(m, RoutedExperts))
    before = experts.down_proj.detach().clone()
    random_gradients(model, 0)
    assert experts.down_proj.grad is not None
    experts.down_proj.grad[2] = 0
    optimizer.step()
    torch.testing.assert_close(experts.down_proj[2].detach(), before[2] * (1 - 0.02 * 0.1))
    assert torch.isfinite(experts.down_proj).all()


@pytest.mark.parametrize("maker", MAKERS)
def test_without_a_gradient_nothing_moves(maker: str) -> None:
    """Catches decay, and state, for parameters that took no part in the step."""
    model = tiny_net()
    optimizer = MAKERS[maker](model)
    optimizer.step()
    assert not optimizer.state
    router = next(m for m in model.modules() if isinstance(m, Router))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    random_gradients(model, 0)
    router.weight.grad = None
    optimizer.step()
    assert torch.equal(router.weight, before["layers.1.mlp.router.weight"])
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters() if p is not router.weight)


@pytest.mark.parametrize("maker", MAKERS)
def test_at_rate_zero_nothing_moves_but_the_state_does(maker: str) -> None:
    """A schedule that ends at 0 must end there: a rule with its own step size would go on."""
    model = tiny_net()
    optimizer = MAKERS[maker](model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    random_gradients(model, 0)
    optimizer.step()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert len(optimizer.state) == len(before)


def test_biases_of_routers_are_no_business_of_the_optimizer() -> None:
    """Decay pulls biases towards 0 and undoes the balancing."""
    model = tiny_net()
    biases = [m.bias.clone() for m in model.modules() if isinstance(m, Router)]
    for maker in MAKERS.values():
        optimizer = maker(model)
        random_gradients(model, 0)
        optimizer.step()
    for bias, module in zip(biases, (m for m in model.modules() if isinstance(m, Router)), strict=True):
        assert torch.equal(module.bias, bias)


def test_a_closure_is_evaluated_with_gradients() -> None:
    """Lightning passes a closure to ``step`` under automatic optimization."""
    model = tiny_net()
    optimizer = make_muon(model)
    before = model.norm.weight.detach().clone()

    def closure() -> float:
        assert torch.is_grad_enabled()
        random_gradients(model, 0)
        return 1.5

    assert optimizer.step(closure) == 1.5
    assert not torch.equal(model.norm.weight, before)


# --- saving -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", MAKERS)
def test_a_saved_state_continues_identically(maker: str) -> None:
    """Catches momentum, step counts or groups that are lost on resuming; the file holds plain containers only."""
    model = tiny_net()
    optimizer = MAKERS[maker](model)
    for seed in range(3):
        random_gradients(model, seed)
        optimizer.step()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)

    other = tiny_net(seed=1)
    continued = MAKERS[maker](other)
    other.load_state_dict(loaded["model"])
    continued.load_state_dict(loaded["optimizer"])
    for seed in range(3, 6):
        for net, steps in ((model, optimizer), (other, continued)):
            random_gradients(net, seed)
            steps.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("maker", ["adamw", "muon"])
def test_a_state_loaded_from_the_cpu_follows_its_parameters(maker: str) -> None:
    """Resuming on a GPU: fused AdamW there cannot read a step count that stayed on the CPU (here: meta for GPU)."""
    model = tiny_net()
    optimizer = MAKERS[maker](model)
    random_gradients(model, 0)
    optimizer.step()
    with torch.device("meta"):
        moved = MAKERS[maker](tiny_net())
    moved.load_state_dict(optimizer.state_dict())
    assert len(moved.state) == len(optimizer.state)
    assert {value.device.type for state in moved.state.values() for value in state.values()} == {"meta"}


# --- Newton-Schulz ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", [(3, 8, 32), (3, 32, 8), (2, 48, 16), (1, 5, 200), (4, 64, 20)])
def test_singular_values_come_near_one(shape: tuple[int, int, int], bf16: bool) -> None:
    """Catches a wrong coefficient, a missing norm, and tall matrices that are not turned."""
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator) * torch.logspace(-3, 3, shape[0]).view(-1, 1, 1)
    out = newton_schulz(matrices, bf16=bf16)
    assert out.shape == shape and out.dtype == torch.float32
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.5 and values.max() < 1.3


@pytest.mark.parametrize("shape", [(4, 6, 10), (4, 10, 6), (3, 7, 7), (5, 1, 4)])
def test_a_stack_is_a_loop_over_its_matrices(shape: tuple[int, int, int]) -> None:
    """Catches a norm over the whole stack: a large expert would silence the others."""
    generator = torch.Generator().manual_seed(1)
    matrices = torch.randn(shape, dtype=torch.float64, generator=generator)
    matrices *= torch.logspace(-2, 2, shape[0], dtype=torch.float64).view(-1, 1, 1)
    kept = matrices.clone()
    out = newton_schulz(matrices, bf16=False)
    assert torch.equal(matrices, kept)
    torch.testing.assert_close(out, torch.stack([orthogonalised(m) for m in matrices]), rtol=1e-9, atol=1e-10)


def test_the_direction_of_every_singular_vector_is_kept() -> None:
    """The iteration changes singular values only: UV^T up to their size."""
    matrix = torch.randn(1, 12, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    core = left.T @ newton_schulz(matrix, bf16=False)[0] @ right.T
    torch.testing.assert_close(core, torch.diag(core.diagonal()), rtol=0, atol=1e-9)
    assert (core.diagonal() > 0.5).all()


def test_a_zero_matrix_stays_zero() -> None:
    """0 / 0 in the norm of an idle expert's gradient would be nan for ever."""
    assert (newton_schulz(torch.zeros(2, 4, 6), bf16=False) == 0).all()
    assert (newton_schulz(torch.zeros(2, 6, 4), bf16=True) == 0).all()
