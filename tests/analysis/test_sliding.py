"""Each token scored once, by the window that the definition gives it."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from s15erav3.analysis.measure import measure
from s15erav3.analysis.sliding import sliding_cost, sliding_nll
from s15erav3.data.windows import EvaluationBatches, EvaluationWindows
from tests.analysis.test_measure import LENGTH, made, text


def loader(tokens: int, stride: int, size: int = 3) -> DataLoader[torch.Tensor]:
    """Batches over the ids of a text."""
    windows = EvaluationWindows(text()[0][:tokens].numpy().astype(np.uint16), LENGTH, stride)
    return DataLoader(windows, batch_sampler=EvaluationBatches(windows, size))


@pytest.mark.parametrize("stride", [1, 3, 5, LENGTH])
@pytest.mark.parametrize("tokens", [2, LENGTH, LENGTH + 1, LENGTH + 2, 51])
def test_each_token_has_the_cost_of_its_own_context(stride: int, tokens: int) -> None:
    """Against one forward pass for each token. Catches tokens left out or scored twice, or with less context."""
    net, ids = made(), text()[0]
    wanted = []
    with torch.no_grad():
        for place in range(1, tokens):
            windows_before = max(0, -(-(place - LENGTH) // stride))
            context = ids[windows_before * stride : place]
            assert len(context) >= min(place, LENGTH - stride + 1)
            logits = net.lm_head(net(context[None]).hidden[0, -1])
            wanted.append(-logits.log_softmax(-1)[ids[place]])
    nll, scored = zip(*sliding_nll(net, loader(tokens, stride), stride, autocast=nullcontext), strict=True)
    assert torch.equal(torch.cat(scored), ids[1:tokens])
    torch.testing.assert_close(torch.cat(nll), torch.stack(wanted), rtol=1e-5, atol=1e-5)
    lengths = torch.arange(40) % 5
    cost = sliding_cost(net, loader(tokens, stride), stride, lengths, autocast=nullcontext)
    total, size = torch.stack(wanted).double().sum().item(), int(lengths[ids[1:tokens]].sum())
    assert (cost["tokens"], cost["bytes"]) == (tokens - 1, size)
    assert cost["loss"] == pytest.approx(total / (tokens - 1), rel=1e-5)
    assert not size or cost["bpb"] == pytest.approx(total / math.log(2) / size, rel=1e-5)


@pytest.mark.parametrize("autocast", [nullcontext, partial(torch.autocast, "cpu", torch.bfloat16)])
def test_windows_without_overlap_are_those_of_the_plain_measure(autocast: Any) -> None:
    """To the bit, in either precision. Seen to fail with the head outside of the autocast."""
    net, lengths = made(), torch.arange(40)
    _, labels, _ = text()
    batches = loader(51, LENGTH, size=4)
    plain = measure(net, batches, labels, lengths, autocast=autocast)
    assert torch.equal(torch.cat([nll for nll, _ in sliding_nll(net, batches, LENGTH, autocast=autocast)]), plain.nll)
    assert sliding_cost(net, batches, LENGTH, lengths, autocast=autocast) == plain.cost


@given(targets=st.integers(1, 300), length=st.integers(1, 40), data=st.data())
def test_windows_end_where_the_text_ends(targets: int, length: int, data: st.DataObject) -> None:
    """No window is missing and none has only targets that were scored before."""
    stride = data.draw(st.integers(1, length))
    windows = EvaluationWindows(np.arange(targets + 1, dtype=np.uint16), length, stride)
    ends = [int(windows[i][-1]) for i in range(len(windows))]
    assert ends[-1] == targets and ends == sorted(set(ends))
    assert [len(windows[i]) == length + 1 for i in range(len(windows))].count(True) == windows.full
