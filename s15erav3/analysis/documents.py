"""Cost of each document of a text, for statistics over documents."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor

from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import Tokens


def by_document(nll: Tensor, tokens: Tokens, tokenizer: Tokenizer) -> str:
    """Add up the cost of each document as lines of JSON: ``{"nll": nats, "bytes": ..., "tokens": ...}``.

    The end-of-text after a document counts as its token, without bytes. The sums over the lines are those of the text.

    Args:
        nll: of each token after the first, (N - 1,).
        tokens: ids of the text, which starts with end-of-text and has one after each document, (N,).
    """
    ids, document = torch.from_numpy(tokens.astype(np.int64)), document_of(tokens, tokenizer)
    columns = (
        torch.bincount(document, weights=nll.double()),
        torch.bincount(document, weights=torch.from_numpy(tokenizer.byte_lengths)[ids[1:]].double()),
        torch.bincount(document),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return "".join(json.dumps({"nll": cost, "bytes": int(size), "tokens": n}) + "\n" for cost, size, n in rows)


def document_of(tokens: Tokens, tokenizer: Tokenizer) -> Tensor:
    """Number, from 0, of the document of each token after the first: int64, (N - 1,)."""
    ids = torch.from_numpy(tokens[:-1].astype(np.int64))
    return (ids == tokenizer.end_of_text).cumsum(0) - 1
