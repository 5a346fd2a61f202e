"""Each token scored once, by the window that the definition gives it."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from s15erav3.analysis.measure import measure
from s15erav3.analysis.sliding import sliding_nll
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
    found = sliding_nll(net, loader(tokens, stride), stride, autocast=nullcontext)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-5, atol=1e-5)


def test_windows_without_overlap_are_those_of_the_plain_measure() -> None:
    net = made()
    _, labels, batches = text()
    plain = measure(net, batches, labels, torch.ones(40, dtype=torch.int64), autocast=nullcontext).nll
    assert torch.equal(sliding_nll(net, loader(51, LENGTH, size=4), LENGTH, autocast=nullcontext), plain)


@given(targets=st.integers(1, 300), length=st.integers(1, 40), data=st.data())
def test_windows_end_where_the_text_ends(targets: int, length: int, data: st.DataObject) -> None:
    """No window is missing and none has only targets that were scored before."""
    stride = data.draw(st.integers(1, length))
    windows = EvaluationWindows(np.arange(targets + 1, dtype=np.uint16), length, stride)
    ends = [int(windows[i][-1]) for i in range(len(windows))]
    assert ends[-1] == targets and ends == sorted(set(ends))
    assert [len(windows[i]) == length + 1 for i in range(len(windows))].count(True) == windows.full
