"""Loss with at least a given context: windows that overlap, each scoring only the tokens that are new to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from s15erav3.analysis.measure import token_nll
from s15erav3.model import Transformer


@torch.no_grad()
def sliding_nll(
    net: Transformer,
    batches: Iterable[Tensor],
    stride: int,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Nats of each token of a text of N tokens after its first: fp32, on the CPU, (N - 1,).

    The first window scores its T targets, each later one its last ``stride``: those have T - ``stride`` or more tokens
    before them, as far as the text has so many. With ``stride`` = T this is the loss over windows without overlap.

    Args:
        net: model in evaluation mode.
        batches: windows (B, T + 1) that start every ``stride`` tokens, see
            :class:`~s15erav3.data.windows.EvaluationWindows`; the last may be shorter.
        stride: 1 to T.
        autocast: autocast context of the forward passes.
    """
    device, each, longest = net.lm_head.weight.device, [], 0
    for batch in batches:
        windows = batch.to(device)
        inputs, targets = windows[:, :-1], windows[:, 1:]
        with autocast():
            hidden = net(inputs).hidden
        first, longest = not longest, longest or inputs.shape[1]
        if first:
            each.append(token_nll(hidden[0], net.lm_head.weight, targets[0]))
            hidden, targets = hidden[1:], targets[1:]
        hidden, targets = hidden[:, longest - stride :], targets[:, longest - stride :]
        each.append(token_nll(hidden.flatten(0, 1), net.lm_head.weight, targets.flatten()))
    return torch.cat(each).cpu()
