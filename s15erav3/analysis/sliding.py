"""Loss with at least a given context: windows that overlap, each scoring only the tokens that are new to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from s15erav3.analysis.measure import token_nll
from s15erav3.model import Transformer
from s15erav3.training.metrics import BitsPerByte


def sliding_cost(
    net: Transformer,
    batches: Iterable[Tensor],
    stride: int,
    byte_lengths: Tensor,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, float | int]:
    """``loss`` (nats per token), ``bpb`` (bits per byte), ``tokens`` and ``bytes`` of a text.

    With ``stride`` = T these are exactly those of :func:`~s15erav3.analysis.measure.measure` on the same batches.

    Args:
        byte_lengths: UTF-8 bytes of each token of the vocabulary.
        net, batches, stride, autocast: as for :func:`sliding_nll`.
    """
    device = net.lm_head.weight.device
    cost, lengths = BitsPerByte().to(device), byte_lengths.to(device)
    for nll, targets in sliding_nll(net, batches, stride, autocast=autocast):
        cost.update(nll.double().sum(), lengths[targets])
    return {key: value.item() for key, value in cost.compute().items()}


@torch.no_grad()
def sliding_nll(
    net: Transformer,
    batches: Iterable[Tensor],
    stride: int,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each batch the nats of its new tokens, fp32, (N,), and these tokens, (N,).

    Each token of the text after its first comes once, in order. The first window scores its T targets, each later one
    its last ``stride``: those have T - ``stride`` or more tokens before them, as far as the text has so many.

    Args:
        net: model in evaluation mode.
        batches: windows (B, T + 1) that start every ``stride`` tokens, see
            :class:`~s15erav3.data.windows.EvaluationWindows`; the last may be shorter.
        stride: 1 to T.
        autocast: autocast context of the forward passes.
    """
    device, longest = net.lm_head.weight.device, 0
    for batch in batches:
        windows = batch.to(device)
        inputs, targets = windows[:, :-1], windows[:, 1:]
        new = torch.ones_like(targets, dtype=torch.bool)
        new[0 if longest else 1 :, : (longest or inputs.shape[1]) - stride] = False
        longest = longest or inputs.shape[1]
        with autocast():
            nll = token_nll(net(inputs).hidden[new], net.lm_head.weight, targets[new])
        yield nll, targets[new]
