"""The loss of multi-token prediction against two loops in float64, and which tokens it is of."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from s15erav3.balancing import Unbalanced
from s15erav3.training.losses import chunked_cross_entropy
from s15erav3.training.module import LanguageModule
from s15erav3.training.mtp import MultiTokenLoss
from s15erav3.training.schedule import Constant
from tests.training.parts import VOCABULARY, Windows, tiny_net, trainer

END = 0


def in_chunks(chunk: int) -> Callable[..., Tensor]:
    return partial(chunked_cross_entropy, chunk=chunk)


def loss_of(weight: float = 0.3, final: float = 0.1, start: float = 0.67) -> MultiTokenLoss:
    return MultiTokenLoss(weight, final, start, end_of_text=END)


def text(rows: int, length: int, vocabulary: int = 5, seed: int = 0) -> Tensor:
    """Windows in which every fifth token or so ends a document."""
    return torch.randint(0, vocabulary, (rows, length + 1), generator=torch.Generator().manual_seed(seed))


def states(windows: Tensor, depth: int, width: int = 6, seed: int = 1) -> tuple[Tensor, ...]:
    """What blocks might have made of them: the k-th (B, T - k, D)."""
    generator = torch.Generator().manual_seed(seed)
    rows, length = windows.shape[0], windows.shape[1] - 1
    shapes = [(rows, max(0, length - k), width) for k in range(1, depth + 1)]
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes)


def head_of(vocabulary: int = 5, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(vocabulary, width, dtype=torch.float64, generator=generator, requires_grad=True)


def naive(ahead: tuple[Tensor, ...], windows: Tensor, head: Tensor) -> tuple[Tensor, list[int]]:
    """Equations 24 and 25 without lambda, one token after the other; and how many tokens each block learns from."""
    rows, length = windows.shape[0], windows.shape[1] - 1
    losses, counts = [], []
    for k in range(1, len(ahead) + 1):
        costs = []
        for b in range(rows):
            for i in range(length - k):
                t = windows[b].tolist()
                if END not in t[i + 1 : i + k + 1]:
                    log_probs = torch.log_softmax(ahead[k - 1][b, i] @ head.T, dim=-1)
                    costs.append(-log_probs[t[i + k + 1]])
        losses.append(torch.stack(costs).mean() if costs else torch.zeros((), dtype=torch.float64))
        counts.append(len(costs))
    return torch.stack(losses).mean(), counts


def grads(value: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, leaves))


# --- the value ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_value_and_gradients_are_those_of_the_paper(depth: int, chunk: int) -> None:
    """Catches targets shifted by one, a mean over tokens of all depths at once, and a sum over depths."""
    windows = text(rows=4, length=9)
    ahead, head, loss = states(windows, depth), head_of(), loss_of()
    expected, counts = naive(ahead, windows, head)
    tokens = loss.count(windows, depth)
    assert tokens.tolist() == counts
    assert counts[0] > counts[-1] > 0 or depth == 1
    ours = loss(ahead, windows, head, tokens, in_chunks(chunk))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    for got, want in zip(grads(ours, head, *ahead), grads(expected, head, *ahead), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


def test_blocks_learn_nothing_across_the_end_of_a_document() -> None:
    """Written out by hand. The end itself is predicted; what follows it is not, nor is anything further on."""
    windows = torch.tensor([[1, 2, END, 3, 4, 5, 6]])  # inputs t0 ... t5; t6 is a target alone
    first, second, third = loss_of().learned(windows, 3)
    # Block 1 reads t_{i+1} and predicts t_{i+2}: at i = 0 the end (read 2), at 1 it has read the end, and so on.
    assert first.tolist() == [[True, False, True, True, True]]
    # Block 2 reads t_{i+1}, t_{i+2}: at 0 and 1 the end is among them.
    assert second.tolist() == [[False, False, True, True]]
    assert third.tolist() == [[False, False, True]]
    assert loss_of().count(windows, 3).tolist() == [4, 2, 1]


def test_ends_at_the_edges_of_a_window() -> None:
    """t_0 is read by no block, so it may end a document; the last token is only predicted, so it may too."""
    windows = torch.tensor([[END, 1, 2, 3, END], [1, 1, 1, END, 2]])
    first, second = loss_of().learned(windows, 2)
    assert first.tolist() == [[True, True, True], [True, True, False]]
    assert second.tolist() == [[True, True], [True, False]]


def test_what_is_left_out_has_no_gradient() -> None:
    """However wrong the guess at the next document is, it moves nothing."""
    windows = torch.tensor([[1, 2, END, 3, 4, 5, 6]])
    (ahead,), head, loss = states(windows, 1), head_of(7), loss_of()
    ours = loss((ahead,), windows, head, loss.count(windows, 1), in_chunks(2))
    (grad,) = grads(ours, ahead)
    assert (grad[0, 1] == 0).all() and (grad[0, [0, 2, 3, 4]].abs().amax(dim=-1) > 0).all()
    with torch.no_grad():
        ahead[0, 1] += 100.0
    assert loss((ahead,), windows, head, loss.count(windows, 1), in_chunks(2)) == ours


def test_windows_without_anything_to_learn_cost_nothing() -> None:
    """Documents of one token: 0 / 0 would be the end of the training."""
    windows = torch.full((2, 6), END)
    ahead, head, loss = states(windows, 2), head_of(), loss_of()
    ours = loss(ahead, windows, head, loss.count(windows, 2), in_chunks(4))
    assert ours == 0
    assert all((grad == 0).all() for grad in grads(ours, head, *ahead))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_windows_shorter_than_the_chain_leave_the_last_blocks_nothing(length: int) -> None:
    """Masks must be as short as the states, and blocks without a token count as a loss of zero."""
    windows = text(rows=3, length=length, vocabulary=4) + 1  # no end
    ahead, head, loss = states(windows, 3), head_of(), loss_of()
    tokens = loss.count(windows, 3)
    assert tokens.tolist() == [3 * max(0, length - k) for k in (1, 2, 3)]
    assert [mask.shape[1] for mask in loss.learned(windows, 3)] == [max(0, length - k) for k in (1, 2, 3)]
    ours, (expected, _) = loss(ahead, windows, head, tokens, in_chunks(5)), naive(ahead, windows, head)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    (grad,) = grads(ours, head)
    assert grad.isfinite().all()


# --- chunked_cross_entropy(keep) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_tokens_that_are_not_kept_do_not_count(chunk: int) -> None:
    """Catches a mask that only the value knows of, and one that is cut otherwise than the tokens."""
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(11, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    targets, keep = torch.randint(0, 5, (11,), generator=generator), torch.rand(11, generator=generator) < 0.5
    head = head_of()
    assert 0 < keep.sum() < 11
    ours = chunked_cross_entropy(hidden, head, targets, chunk, keep=keep)
    expected = sum(-torch.log_softmax(hidden[i] @ head.T, -1)[targets[i]] for i in range(11) if keep[i])
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    for got, want in zip(grads(0.3 * ours, hidden, head), grads(0.3 * expected, hidden, head), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)
    nothing = chunked_cross_entropy(hidden, head, targets, chunk, keep=torch.zeros_like(keep))
    assert nothing == 0 and all((grad == 0).all() for grad in grads(nothing, hidden, head))
    everything = chunked_cross_entropy(hidden, head, targets, chunk, keep=torch.ones_like(keep))
    torch.testing.assert_close(everything, chunked_cross_entropy(hidden, head, targets, chunk), rtol=0, atol=0)


# --- weight and micro-batches -------------------------------------------------------------------------------------


def test_the_weight_falls_once() -> None:
    """DeepSeek-V3: 0.3 for the first 10 of 14.8 T tokens, 0.1 for the rest."""
    loss = loss_of(0.3, 0.1, 0.5)
    assert [loss.weight_at(p) for p in (0.0, 0.49, 0.5, 1.0)] == [0.3, 0.3, 0.1, 0.1]
    assert loss_of(0.3, 0.1, 0.0).weight_at(0.0) == 0.1
    assert math.isclose(loss_of(0.3, 0.1, 1.0).weight_at(0.999), 0.3)


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": list(net.parameters()), "initial_lr": 0.5}], lr=0.5)


def test_micro_batches_with_unequal_numbers_of_documents_train_like_one_batch() -> None:
    """A mean within each micro-batch weighs a token by how many ends its neighbours hold."""
    data = Windows(batches=2, rows=8, length=7)
    for batch in data.batches:
        batch.clamp_(min=1)
        batch[0, 1:6] = END  # nearly nothing is learned from the first micro-batch, and much from the others
        batch[1, ::2] = END
    nets, losses = [], []
    for micro_batches in (1, 4, 3):
        net = tiny_net(num_nextn_predict_layers=2).double()
        module = LanguageModule(
            net,
            Unbalanced(),
            optimizer=sgd,
            schedule=Constant(),
            byte_lengths=torch.ones(VOCABULARY, dtype=torch.int64),
            multi_token_loss=loss_of(0.7, 0.7),
            micro_batches=micro_batches,
            gradient_clip=0.0,
            loss_chunk=5,
        )
        trainer(2, precision="64-true").fit(module, data)
        assert module.last_step is not None and module.last_step.mtp_loss is not None
        nets.append(net)
        losses.append(module.last_step.mtp_loss)
    counts = [loss_of().count(part, 2).tolist() for part in data.batches[0].chunk(4)]
    assert counts[0] != counts[1]
    for net, loss in zip(nets[1:], losses[1:], strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=1e-9, atol=0)
        for (name, a), b in zip(net.named_parameters(), nets[0].parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=name)
