"""Division of a text into cells: the tokens of one document that have one value of a domain.

Shapes: N targets, C cells, G pairs of a domain and a value, S domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s15erav3.analysis.documents import document_of
from s15erav3.data.labels import DOMAINS, Domain
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import Tokens

Ints = NDArray[np.int64]


class Division(NamedTuple):
    """Cells, ordered by group and then by document."""

    groups: list[tuple[str, str]]
    """Domain and value of each of the G groups; the first is ``("all", "all")``."""
    group: Ints
    """Group of each cell, (C,)."""
    document: Ints
    """Document of each cell, (C,)."""
    size: Ints
    """Bytes of each cell, (C,)."""
    cells: Tensor
    """Cell of each target in the whole text, and in each domain: int64, (1 + S, N)."""


def divide(tokens: Tokens, labels: Mapping[str, Domain], tokenizer: Tokenizer) -> Division:
    """Divide the N = len(tokens) - 1 targets of a text by its documents and the labels of commentary.

    A target has its own labels, not those of the token before it. Without labels of commentary the whole text is the
    only group: single tokens are too rare to show what an expert is worth to them.

    Args:
        tokens: ids of the text, which starts with end-of-text.
        labels: of these tokens, from :func:`~s15erav3.data.labels.label_tokens`, or of a longer text.
    """
    document = document_of(tokens, tokenizer).numpy()
    bytes_of = tokenizer.byte_lengths[tokens[1:]]
    domains = {"all": Domain(np.zeros(len(tokens), dtype=np.int64), ["all"])}
    domains |= {name: labels[name] for name in DOMAINS if name in labels}
    n, start = int(document[-1]) + 1, 0
    groups: list[tuple[str, str]] = []
    columns: list[tuple[Ints, Ints, Ints]] = []
    cells = []
    for name, domain in domains.items():
        found, at = np.unique(domain.codes[1 : len(tokens)] * n + document, return_inverse=True)
        columns.append((found // n + len(groups), found % n, np.bincount(at, weights=bytes_of).astype(np.int64)))
        cells.append(torch.from_numpy(at.astype(np.int64) + start))
        groups += [(name, value) for value in domain.names]
        start += len(found)
    group, document, size = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Division(groups, group, document, size, torch.stack(cells))
