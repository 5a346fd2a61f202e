"""Routed experts and their grouped products against loops over tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from s15erav3.model.experts import RoutedExperts, SwiGLU
from s15erav3.model.grouped import grouped_linear, grouped_outer
from s15erav3.model.moe import MoE
from s15erav3.model.router import Routing
from tests.model.reference import naive_experts, random_routing, tiny_config


def experts_of(n: int, k: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> RoutedExperts:
    config = tiny_config(n_routed_experts=n, num_experts_per_tok=k, hidden_size=16, moe_intermediate_size=8)
    module = RoutedExperts(config).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator) * 0.5)
    return module


def leaf(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


@pytest.mark.parametrize(
    ("n", "k", "tokens", "allowed"),
    [
        (6, 2, 11, None),
        (6, 1, 5, None),
        (4, 4, 7, None),
        (1, 1, 3, None),
        (8, 2, 1, None),
        (9, 3, 13, [1, 4, 7]),  # six experts without a token, first and last among them
        (5, 2, 6, [3, 4]),
        (5, 1, 6, [0]),  # all tokens on one expert
    ],
)
def test_output_and_gradients_are_those_of_a_loop_over_tokens(
    n: int, k: int, tokens: int, allowed: list[int] | None
) -> None:
    """Catches wrong sorting, a wrong inverse permutation, and idle experts that shift the others' slices."""
    module = experts_of(n, k)
    x = leaf(tokens, 16, seed=1)
    routing = random_routing(tokens, n, k, seed=2, allowed=allowed)
    routing = routing._replace(weights=routing.weights.requires_grad_())
    inputs = (x, routing.weights, module.gate_up_proj, module.down_proj)
    grad = torch.randn(tokens, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    ours = module(x, routing)
    expected = naive_experts(x, routing, module.gate_up_proj, module.down_proj)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    got, want = torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(expected, inputs, grad)
    for name, ours_grad, expected_grad in zip(("x", "weights", "gate_up", "down"), got, want, strict=True):
        assert expected_grad.abs().max() > 0, name
        torch.testing.assert_close(ours_grad, expected_grad, rtol=1e-10, atol=1e-12, msg=name)
    idle = routing.load == 0
    assert (got[2][idle] == 0).all() and (got[3][idle] == 0).all()


def test_the_order_of_a_tokens_experts_does_not_matter() -> None:
    """Catches weights that are matched to sorted slots instead of to their experts: top-k comes unsorted."""
    module, x = experts_of(6, 3), leaf(9, 16, seed=1)
    routing = random_routing(9, 6, 3, seed=4)
    turned = routing._replace(experts=routing.experts.flip(1), weights=routing.weights.flip(1))
    torch.testing.assert_close(module(x, turned), module(x, routing), rtol=1e-12, atol=1e-12)


def test_moe_adds_one_shared_network_of_the_joint_width() -> None:
    """Catches shared experts that are dropped, weighted by the gate, or of one expert's width only."""
    config = tiny_config(n_shared_experts=3, moe_intermediate_size=8)
    moe = MoE(config).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator) * 0.3)
    x = leaf(2, 5, 32, seed=5)
    out, routing = moe(x)
    assert isinstance(moe.shared_experts, SwiGLU)
    assert moe.shared_experts.gate_proj.weight.shape == (24, 32)
    flat = x.reshape(-1, 32)
    expected = naive_experts(flat, routing, moe.experts.gate_up_proj, moe.experts.down_proj)
    shared = moe.shared_experts
    expected = (
        expected
        + (torch.nn.functional.silu(flat @ shared.gate_proj.weight.T) * (flat @ shared.up_proj.weight.T))
        @ shared.down_proj.weight.T
    )
    torch.testing.assert_close(out, expected.view(2, 5, 32), rtol=1e-10, atol=1e-10)


def test_without_shared_experts_only_the_routed_ones_speak() -> None:
    """Catches an empty shared network that is built all the same."""
    moe = MoE(tiny_config(n_shared_experts=0))
    assert moe.shared_experts is None
    assert {name.split(".")[0] for name, _ in moe.named_parameters()} == {"router", "experts"}


def ends_of(*loads: int) -> Tensor:
    return torch.tensor(loads).cumsum(0).to(torch.int32)


@pytest.mark.parametrize(
    "check",
    [
        "test_schema",
        "test_autograd_registration",
        "test_faketensor",
        pytest.param("test_aot_dispatch_dynamic", marks=pytest.mark.slow),
    ],
)
def test_operators_keep_torch_librarys_contract(check: str) -> None:
    """Catches a fake kernel of another shape or dtype, and outputs that alias inputs: both break compiling."""
    ends = ends_of(2, 0, 4)
    x, weight, y = leaf(6, 3, seed=0), leaf(3, 5, 3, seed=1), leaf(6, 5, seed=2)
    torch.library.opcheck(torch.ops.s15erav3.grouped_linear.default, (x, weight, ends), test_utils=check)
    torch.library.opcheck(
        torch.ops.s15erav3.grouped_linear.default, (x.detach().float(), weight.detach().float(), ends), test_utils=check
    )
    torch.library.opcheck(torch.ops.s15erav3.grouped_outer.default, (y.detach(), x.detach(), ends), test_utils=check)


def test_grouped_linear_has_the_gradients_of_its_values() -> None:
    """Catches a transposed weight or swapped factors in the backward, with idle experts and sliced inputs."""
    for loads in ((2, 0, 4), (0, 0, 6), (6, 0, 0), (2, 2, 2)):
        ends = ends_of(*loads)
        assert torch.autograd.gradcheck(
            lambda x, w, ends=ends: grouped_linear(x, w, ends), (leaf(6, 3, seed=0), leaf(3, 5, 3, seed=1))
        )
    strided = torch.randn(3, 6, dtype=torch.float64).t().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: grouped_linear(x, w, ends_of(1, 3, 2)), (strided, leaf(3, 5, 3, seed=1))
    )


def test_grouped_operators_against_one_product_per_row() -> None:
    """Catches an off-by-one at the group ends."""
    ends, owner = ends_of(1, 0, 3, 2), [0, 2, 2, 2, 3, 3]
    x, weight, y = (t.detach() for t in (leaf(6, 3, seed=0), leaf(4, 5, 3, seed=1), leaf(6, 5, seed=2)))
    torch.testing.assert_close(
        grouped_linear(x, weight, ends), torch.stack([weight[e] @ x[m] for m, e in enumerate(owner)])
    )
    outer = torch.zeros(4, 5, 3, dtype=torch.float64)
    for m, e in enumerate(owner):
        outer[e] += torch.outer(y[m], x[m])
    torch.testing.assert_close(grouped_outer(y, x, ends), outer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_one_kernel_of_gpus_agrees_with_a_product_per_expert() -> None:
    """An idle expert's gradient that is left uninitialised (pytorch issue 172439): seen on some GPUs only."""
    ends = ends_of(0, 13, 0, 20, 7, 0)
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(s, generator=generator) for s in ((40, 16), (6, 24, 16), (40, 24)))
    results = []
    for device in ("cpu", "cuda"):
        if device == "cuda":
            junk = [torch.full((1 << 16,), float("nan"), device=device, dtype=torch.bfloat16) for _ in range(64)]
            del junk  # what torch.empty gives from here on is nan
        a, w = (t.to(device, torch.bfloat16).requires_grad_() for t in (x, weight))
        out = grouped_linear(a, w, ends.to(device))
        out.backward(grad.to(device, torch.bfloat16))
        assert a.grad is not None and w.grad is not None
        results.append([t.detach().float().cpu() for t in (out, a.grad, w.grad)])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-2, atol=5e-2)
    assert (results[1][2][[0, 2, 5]] == 0).all()


def test_autocast_computes_in_bf16_and_returns_gradients_in_fp32() -> None:
    """Catches experts that stay fp32 under mixed precision, or whose weights receive bf16 gradients."""
    seen: list[torch.dtype] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if "grouped" in str(func):
                seen.extend(a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point())
            return func(*args, **(kwargs or {}))

    module = experts_of(6, 2, torch.float32)
    x = leaf(40, 16, seed=1).detach().float().requires_grad_()
    routing = random_routing(40, 6, 2, seed=2)
    routing = routing._replace(weights=routing.weights.float())
    with Spy(), torch.autocast("cpu", torch.bfloat16):
        out = module(x, routing)
        assert out.dtype == torch.float32
    with Spy():
        out.square().sum().backward()
    assert len(seen) == 12 and set(seen) == {torch.bfloat16}

    expected = naive_experts(x.double(), routing, module.gate_up_proj.double(), module.down_proj.double())
    want = torch.autograd.grad(expected.square().sum(), (x, module.gate_up_proj, module.down_proj))
    got = (x.grad, module.gate_up_proj.grad, module.down_proj.grad)
    for ours, reference in zip((out, *got), (expected, *want), strict=True):
        assert ours is not None and ours.dtype == torch.float32
        error = (ours.double() - reference.double()).norm() / reference.double().norm()
        assert 1e-5 < error < 2e-2  # bf16 carries 8 bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_output_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    """Catches fp32 gate weights that widen the residual stream of a cast model."""
    module = experts_of(6, 2, dtype)
    routing = random_routing(7, 6, 2, seed=2)
    out = module(torch.randn(7, 16).to(dtype), routing._replace(weights=routing.weights.float()))
    assert out.dtype == dtype and torch.isfinite(out).all()


def test_no_gradient_of_a_whole_stack_is_made_per_expert() -> None:
    """Catches ``weight[e]`` under autograd: each slice would cost a zero-filled gradient of all experts."""
    made: list[int] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and "view" not in str(func) and out.shape == stack.shape:
                made.append(1)
            return out

    module = experts_of(9, 2)
    stack = module.gate_up_proj
    routing = random_routing(20, 9, 2, seed=0)
    out = module(leaf(20, 16, seed=1), routing).sum()
    with Spy():
        out.backward()
    assert 1 <= len(made) <= 4  # the operator's result and views of it, but not one for each of 9 experts


def test_routing_is_a_tuple_of_tensors() -> None:
    """Compilers and sharding wrappers look inside NamedTuples; they would not see tensors of a dataclass."""
    routing = random_routing(3, 4, 2, seed=0)
    assert isinstance(routing, tuple) and Routing._fields[:4] == ("scores", "experts", "weights", "load")
    leaves = torch.utils._pytree.tree_leaves(
        routing._replace(dropped=routing.load, tokens=routing.load, identity=routing.load)
    )
    assert len(leaves) == len(Routing._fields) and all(isinstance(leaf, torch.Tensor) for leaf in leaves)
