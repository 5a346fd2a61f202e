"""Assignments of all token domains as one long table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from s15erav3.analysis.collect import VOCABULARY, Routed
from s15erav3.files import whole

SPARSE = ("bowler", "batter", *VOCABULARY)
"""Domains with so many values that rows with count 0 are omitted."""

SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("expert", pa.int32()),
        ("domain", pa.dictionary(pa.int32(), pa.string())),
        ("value", pa.dictionary(pa.int32(), pa.string())),
        ("count", pa.int64()),
        ("of", pa.int64()),
    ]
)


def long_table(routed: Routed, tokens: int) -> pa.Table:
    """Build a table with one row per layer, expert, domain and value.

    Columns: ``layer``, ``expert``, ``domain``, ``value``, ``count`` (assignments of tokens with that value to that
    expert) and ``of`` (number of tokens with the value). The domain ``all`` has the single value ``all``: loads. In
    the domain ``expert`` (co-activation), values are the experts ("E07") of the same token, including the expert
    itself, and ``of`` is the load of that expert. The other domains are those of the text. Rows with count 0 are
    omitted for ``bowler``, ``batter`` and the vocabulary (``token``, ``next_token``, ``predicted_token``).

    Args:
        tokens: number of tokens of the whole text.
    """
    experts = [f"E{e:02d}" for e in range(routed.loads.shape[-1])]
    parts = [
        _rows(routed, "all", ["all"], routed.loads.unsqueeze(1), routed.loads.new_tensor([tokens])),
        *(_rows(routed, name, *counts) for name, counts in routed.domains.items()),
        _rows(routed, "expert", experts, routed.coactivation, routed.loads),
    ]
    return pa.concat_tables(parts).unify_dictionaries()


def _rows(routed: Routed, domain: str, values: list[str], slots: Tensor, tokens: Tensor) -> pa.Table:
    """Convert counts (L, V, E) with tokens (V,) or (L, V) to rows, ordered by layer, then value."""
    count = slots.numpy()
    of = np.broadcast_to(tokens.numpy()[..., None], count.shape)
    kept = count > 0 if domain in SPARSE else np.ones(count.shape, dtype=bool)
    layer, value, expert = np.nonzero(kept)
    columns = [
        pa.array(np.array(routed.layers, dtype=np.int32)[layer]),
        pa.array(expert.astype(np.int32)),
        pa.DictionaryArray.from_arrays(np.zeros(len(layer), dtype=np.int32), [domain]),
        pa.DictionaryArray.from_arrays(value.astype(np.int32), values),
        pa.array(count[kept]),
        pa.array(of[kept]),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write_table(table: pa.Table, file: Path) -> None:
    """Write Parquet atomically."""
    with whole(file, binary=True) as stream:
        pq.write_table(table, stream, compression="zstd")
