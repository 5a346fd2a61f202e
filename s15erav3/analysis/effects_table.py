"""Effects of ablation as a Parquet file, which ``report`` reads back, and in ``evaluate``'s JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s15erav3.analysis.effects import Effects
from s15erav3.analysis.needs import Need, Pooled
from s15erav3.analysis.tables import write_table

SUFFIX = ".ablation.parquet"
ABOUT = b"s15erav3"
"""Key of the file's metadata that holds, as JSON, what was measured."""

SPECIALISTS = ("ablation/specialists", "ablation/domains")


class Ablation(NamedTuple):
    """Effects, and of what they are."""

    effects: Effects
    about: dict[str, Any]
    """``checkpoint``, ``step``, ``split``, ``ablate_mode`` and ``ablation/tokens``."""

    def record(self) -> dict[str, Any]:
        """Names and values for ``evaluate``'s JSON: the whole text and the specialists, but no other values."""
        effects = self.effects
        found = {"ablation/change": effects.change[0].tolist(), "ablation/half": _listed(effects.half[0])}
        return {name: self.about[name] for name in ("ablate_mode", "ablation/tokens")} | found | _specialists(effects)


def _specialists(effects: Effects) -> dict[str, Any]:
    rows: tuple[Sequence[Need | Pooled], ...] = (effects.needs, effects.domains)
    return {name: [row._asdict() for row in its] for name, its in zip(SPECIALISTS, rows, strict=True)}


def _listed(values: Any) -> list[list[float | None]]:
    return [[value if math.isfinite(value) else None for value in row] for row in values.tolist()]  # NaN is no JSON


def write_ablation(ablation: Ablation, file: Path) -> None:
    """Write one row per domain, value, layer and expert, atomically.

    Columns: ``layer``, ``expert``, ``domain``, ``value``, ``change`` of bits per byte, ``half`` the width of its 95 %
    interval (null in a single document), ``bpb`` with all experts, ``bytes`` and ``documents`` of the value.
    """
    effects, about = ablation
    groups, layers, experts = effects.change.shape
    group, layer, expert = (at.ravel() for at in np.indices((groups, layers, experts)))
    domains, values = zip(*effects.groups, strict=True)
    table = pa.table(
        {
            "layer": np.array(effects.layers, dtype=np.int32)[layer],
            "expert": expert.astype(np.int32),
            "domain": pa.array(np.array(domains)[group]).dictionary_encode(),
            "value": pa.array(np.array(values)[group]).dictionary_encode(),
            "change": effects.change.ravel(),
            "half": pa.array(effects.half.ravel(), from_pandas=True),
            "bpb": effects.bpb[group],
            "bytes": effects.size[group],
            "documents": effects.documents[group],
        }
    )
    whole = about | {"layers": effects.layers, "experts": experts} | _specialists(effects)
    write_table(table.replace_schema_metadata({ABOUT: json.dumps(whole)}), file)


def read_ablation(file: Path) -> Ablation:
    """Read a file of :func:`write_ablation`.

    Raises:
        OSError, ValueError, LookupError, TypeError: it is not such a file; pyarrow's errors are among them.
    """
    table = pq.read_table(file)
    about = json.loads((table.schema.metadata or {})[ABOUT])
    layers, experts = about.pop("layers"), about.pop("experts")
    column = {name: table[name].to_numpy().reshape(-1, len(layers), experts) for name in table.column_names}
    first = {name: its[:, 0, 0] for name, its in column.items()}
    needs, domains = (about.pop(name) for name in SPECIALISTS)
    effects = Effects(
        layers=layers,
        groups=list(zip(first["domain"].tolist(), first["value"].tolist(), strict=True)),
        size=first["bytes"],
        documents=first["documents"],
        bpb=first["bpb"],
        change=column["change"],
        half=column["half"],
        needs=[Need(**row) for row in needs],
        domains=[Pooled(**row) for row in domains],
    )
    return Ablation(effects, about)
