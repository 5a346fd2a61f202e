"""The chunked cross-entropy against torch's, and what it holds in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from s15erav3.training import losses
from s15erav3.training.losses import chunked_cross_entropy

N, D, V = 23, 6, 11


def inputs(n: int = N, d: int = D, v: int = V, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, d, dtype=torch.float64, generator=generator)
    head = torch.randn(v, d, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, v, (n,), generator=generator)
    return hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_(), targets


def whole(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ head.T, targets, reduction="sum")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, N - 1, N, N + 1, 1000])
def test_value_and_gradients_are_those_of_cross_entropy(
    chunk: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a last chunk that is cut or counted twice, and a gradient of the mean instead of the sum."""
    monkeypatch.setattr(losses, "_compiled", lambda: losses._in_one_pass)  # what is compiled, as it is
    hidden, head, targets = inputs()
    ours = chunked_cross_entropy(hidden, head, targets, chunk, compiled=compiled)
    expected = whole(hidden, head, targets)
    assert ours.shape == () and ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    got = torch.autograd.grad(ours * 0.37, (hidden, head))
    want = torch.autograd.grad(expected * 0.37, (hidden, head))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_it_is_the_same_within_rounding(dtype: torch.dtype, masked: bool) -> None:
    """By Inductor. Logits up to 1e4 must not overflow; the last, shorter chunk is not compiled."""
    hidden, head, targets = inputs(23, 6, 1000, dtype)
    keep = torch.arange(23) % 3 > 0 if masked else None
    scaled = (1000 * hidden).detach().requires_grad_()
    found = []
    for compiled in (False, True):
        loss = chunked_cross_entropy(scaled, head, targets, 10, keep, compiled)
        found.append((loss, *torch.autograd.grad(loss, (scaled, head))))
    for a, b in zip(*found, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("only", ["hidden", "head", "none"])
def test_only_the_gradients_that_are_needed_are_computed(only: str) -> None:
    """A frozen head, or frozen states, must neither fail nor receive a gradient."""
    hidden, head, targets = inputs()
    hidden.requires_grad_(only == "hidden")
    head.requires_grad_(only == "head")
    ours, expected = chunked_cross_entropy(hidden, head, targets, 7), whole(hidden, head, targets)
    torch.testing.assert_close(ours, expected)
    if only == "none":
        assert not ours.requires_grad
        return
    ours.backward()
    leaf = hidden if only == "hidden" else head
    torch.testing.assert_close(leaf.grad, torch.autograd.grad(expected, leaf)[0])
    assert (head if only == "hidden" else hidden).grad is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_computed_in_evaluation(mode: Any) -> None:
    """Validation would pay for a backward, and hold a (V, D) gradient, that nobody asked for."""
    hidden, head, targets = inputs()
    with mode(), Largest() as spy:
        value = chunked_cross_entropy(hidden, head, targets, 7)
    assert not value.requires_grad
    assert "exp" not in spy.names and "scatter_add" not in spy.names
    torch.testing.assert_close(value, whole(hidden, head, targets).detach())


def test_a_tied_head_collects_both_gradients() -> None:
    """The same tensor looks tokens up and scores them: one of its gradients must not replace the other."""
    ids = torch.tensor([0, 3, 5, 5])
    targets = torch.tensor([3, 5, 5, 1])
    table = inputs()[1]
    ours = torch.autograd.grad(chunked_cross_entropy(F.embedding(ids, table), table, targets, 3), table)[0]
    expected = torch.autograd.grad(whole(F.embedding(ids, table), table, targets), table)[0]
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("chunk", [5, N, 100])
def test_under_autocast_it_is_close_to_exact_and_gradients_are_fp32(chunk: int) -> None:
    """A softmax in bf16 has an error of a whole per cent of a nat; gradients in bf16 do not fit fp32 weights."""
    hidden, head, targets = inputs(dtype=torch.float32)
    exact_hidden, exact_head = (t.detach().double().requires_grad_() for t in (hidden, head))
    expected = whole(exact_hidden, exact_head, targets)
    with torch.autocast("cpu", torch.bfloat16):
        ours = chunked_cross_entropy(hidden, head, targets, chunk)
    assert ours.dtype == torch.float32
    assert abs(ours.item() / expected.item() - 1) < 1e-2
    ours.backward()
    want = torch.autograd.grad(expected, (exact_hidden, exact_head))
    for leaf, reference in zip((hidden, head), want, strict=True):
        assert leaf.grad is not None and leaf.grad.dtype == torch.float32
        assert (leaf.grad.double() - reference).norm() < 2e-2 * reference.norm()


def test_bf16_sums_of_many_chunks_do_not_lose_small_terms() -> None:
    """The head's gradient is a sum over all tokens: added up in bf16, later chunks would vanish."""
    hidden, head, targets = inputs(4096, 8, 5)
    expected = torch.autograd.grad(whole(hidden, head, targets), head)[0]
    low_hidden, low_head = hidden.detach().bfloat16(), head.detach().bfloat16().requires_grad_()
    got = torch.autograd.grad(chunked_cross_entropy(low_hidden, low_head, targets, 8), low_head)[0]
    assert got.dtype == torch.bfloat16
    assert (got.double() - expected).norm() < 1e-2 * expected.norm()


class Largest(TorchDispatchMode):
    """The names of the operators run, and the largest tensor any of them gave back."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.numel = "", 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.names += f" {func}"
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("autocast", [False, True])
def test_no_tensor_is_larger_than_a_chunk_of_logits(autocast: bool) -> None:
    """The point of chunks: all logits of a step would be the largest tensor of the training."""
    n, d, v, chunk = 400, 4, 300, 8
    hidden, head, targets = inputs(n, d, v, torch.float32)
    assert max(n * d, v * d) < chunk * v < n * v
    with Largest() as spy, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        chunked_cross_entropy(hidden, head, targets, chunk).backward()
    assert spy.numel == chunk * v
    with Largest() as spy:
        whole(hidden, head, targets).backward()
    assert spy.numel == n * v  # what the measure shows for all logits at once


def test_large_logits_stay_finite() -> None:
    """Catches an exponential before the maximum is taken off."""
    hidden, head = torch.full((2, 1), 1e4, requires_grad=True), torch.tensor([[1.0], [-1.0]])
    loss = chunked_cross_entropy(hidden, head, torch.tensor([0, 0]), 1)
    loss.backward()
    assert loss == 0 and torch.isfinite(hidden.grad).all()  # type: ignore[arg-type]


def test_a_second_derivative_is_right_or_refused() -> None:
    """A gradient penalty would train on nonsense; ``once_differentiable`` would refuse it."""
    hidden, head, targets = inputs()

    def curvature(loss: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(loss.square(), hidden, create_graph=True)
        return torch.autograd.grad(first.square().sum(), hidden)[0]

    expected = curvature(whole(hidden, head, targets))
    try:
        got = curvature(chunked_cross_entropy(hidden, head, targets, 7))
    except RuntimeError:
        return
    torch.testing.assert_close(got, expected)
