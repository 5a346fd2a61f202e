"""Cells, changes, specialists and their file, against sums over single tokens and documents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from s15erav3.analysis.ablation import Costs
from s15erav3.analysis.division import Division, divide
from s15erav3.analysis.effects import Effects, effects
from s15erav3.analysis.effects_table import Ablation, read_ablation, write_ablation
from s15erav3.analysis.effects_text import between, domain_rows, largest_rows, specialist_rows, verdict
from s15erav3.data.labels import Domain

END = 0
LAYERS, EXPERTS, DOCUMENTS = [1, 4], 3, 6


class Words(NamedTuple):
    """The parts of a tokenizer that divide a text: token i has i bytes, and 0 ends a document."""

    end_of_text: int = END
    byte_lengths: np.ndarray = np.arange(5)


def text(documents: int = DOCUMENTS) -> tuple[np.ndarray, dict[str, Domain]]:
    """Documents of 20 to 40 tokens, and events: a rare one, a usual one, and none at the ends of documents."""
    draw, ids = np.random.default_rng(0), [END]
    for _ in range(documents):
        ids += [*draw.integers(1, 5, int(draw.integers(20, 40))).tolist(), END]
    tokens = np.array(ids, dtype=np.uint16)
    codes = np.where(tokens == END, 1, np.where(draw.random(len(ids)) < 0.3, 0, 2)).astype(np.int64)
    names = ["SIX", "none", "other"]
    return tokens, {"event": Domain(codes, names), "token": Domain(tokens.astype(np.int64), list("abcde"))}


def measured(documents: int = DOCUMENTS) -> tuple[Costs, Division, np.ndarray, np.ndarray]:
    """Costs of cells, summed from costs of single tokens, which come last: (N,) and (L, E, N)."""
    tokens, labels = text(documents)
    division = divide(tokens, labels, Words())  # type: ignore[arg-type]
    draw, n = np.random.default_rng(1), len(tokens) - 1
    whole, more = draw.random(n), draw.normal(0.02, 0.1, (2, EXPERTS, n))
    rare = labels["event"].codes[1:] == 0
    more[1, 2, rare] += 0.5
    uses = draw.random((2, EXPERTS, n)) < 0.4
    uses[1, 2] = rare | (draw.random(n) < 0.1)
    cells, many = division.cells, len(division.size)
    sums = [torch.zeros(*its.shape[:-1], many, dtype=torch.float64) for its in (whole, more, uses)]
    for total, each in zip(sums, (whole, more, uses), strict=True):
        for one in cells:
            total.index_add_(-1, one, torch.from_numpy(each.astype(np.float64)))
    return Costs(sums[0], sums[1], sums[2].long()), division, whole, more


def test_cells_are_documents_by_the_targets_own_values() -> None:
    """Catches labels or bytes of the token before, an end of text in the next document, and single tokens as cells."""
    tokens, labels = text()
    division = divide(tokens, labels, Words())  # type: ignore[arg-type]
    assert division.groups == [("all", "all"), ("event", "SIX"), ("event", "none"), ("event", "other")]
    size: dict[tuple[str, int], int] = {}
    document = -1
    for before, token, code in zip(tokens, tokens[1:], labels["event"].codes[1:], strict=False):
        document += before == END
        for value in ("all", labels["event"].names[code]):
            size[value, document] = size.get((value, document), 0) + int(token)
    cells = zip(division.group.tolist(), division.document.tolist(), division.size.tolist(), strict=True)
    assert {(division.groups[g][1], d): n for g, d, n in cells} == size
    assert division.cells.shape == (2, len(tokens) - 1)
    assert (np.diff(division.group) >= 0).all()


def test_a_shorter_text_has_the_first_labels() -> None:
    """``ablate_tokens`` leaves the labels as they are."""
    tokens, labels = text()
    assert divide(tokens[:50], labels, Words()).cells.shape == (2, 49)  # type: ignore[arg-type]


def test_changes_are_nats_over_bytes_of_the_same_tokens() -> None:
    """Catches nats for bits, bytes of the whole text under a value's nats, layers and experts exchanged."""
    costs, division, whole, more = measured()
    found = effects(costs, division, LAYERS)
    tokens, labels = text()
    assert found.groups == [("all", "all"), ("event", "SIX"), ("event", "other")]
    codes = labels["event"].codes[1:]
    for g, mask in enumerate((codes >= 0, codes == 0, codes == 2)):
        size = tokens[1:][mask].sum()
        assert found.size[g] == size and found.documents[g] == DOCUMENTS
        assert found.bpb[g] == pytest.approx(whole[mask].sum() / size / math.log(2))
        np.testing.assert_allclose(found.change[g], more[..., mask].sum(axis=-1) / size / math.log(2))
    assert (found.half > 0).all()


def test_a_value_needs_the_specialist_that_was_made_for_it() -> None:
    """The expert that takes the rare event, and whose removal costs it half a nat a token. Catches a specialist by its
    effect instead of its share, an expert compared with itself, and cells of the other values."""
    costs, division, _, more = measured(40)
    found = effects(costs, division, LAYERS)
    need, other = found.needs
    assert other.value == "other"
    assert (need.domain, need.value, need.layer, need.expert) == ("event", "SIX", 4, 2)
    tokens, labels = text(40)
    mask = labels["event"].codes[1:] == 0
    size = tokens[1:][mask].sum() * math.log(2)
    assert need.change == pytest.approx(more[1, 2, mask].sum() / size)
    assert need.other == pytest.approx(more[1, :2, mask].sum() / 2 / size)
    assert need.change - need.other > need.half > 0
    assert "2 values: " in verdict(found) and "need their specialists more" in verdict(found)
    assert specialist_rows(found)[0][:3] == ("event", "SIX", "L04 E02") and domain_rows(found)[0][1] == "2"
    assert largest_rows(found, 1)[0][0] == "L04 E02"


def test_domains_are_means_over_their_values() -> None:
    """A bootstrap of the mean of two ratios, drawn by hand. Catches values weighted by their bytes."""
    costs, division, _, _ = measured(40)
    found = effects(costs, division, LAYERS)
    assert len(found.needs) == 2 and [(one.domain, one.values) for one in found.domains] == [("event", 2), ("all", 2)]
    assert found.domains[0].change == pytest.approx(sum(need.change for need in found.needs) / 2)
    draw, means = np.random.default_rng(7), []
    tables = []
    for need in found.needs:
        at = division.group == division.groups.index((need.domain, need.value))
        its = costs.more[LAYERS.index(need.layer)][:, torch.from_numpy(at)].numpy()
        tables.append((its[need.expert] - np.delete(its, need.expert, axis=0).mean(axis=0), division.size[at]))
    for _ in range(4000):
        drawn = draw.integers(40, size=40)
        means.append(np.mean([nll[drawn].sum() / size[drawn].sum() for nll, size in tables]) / math.log(2))
    assert found.domains[0].half == pytest.approx(2.02 * np.std(means), rel=0.1)


def test_a_value_of_one_document_is_not_asked() -> None:
    """Draws without its document would make an interval out of nothing: the rare event, all of it in one document."""
    costs, division, _, _ = measured(40)
    rare = division.group == 1
    first = int(np.flatnonzero(rare)[0])
    kept = ~rare | (np.arange(len(rare)) == first)
    sums = [table.clone() for table in costs]
    for table in sums:
        table[..., first] = table[..., torch.from_numpy(rare)].sum(dim=-1)
    size = np.where(np.arange(len(rare)) == first, division.size[rare].sum(), division.size)
    found = effects(
        Costs(*(table[..., torch.from_numpy(kept)] for table in sums)),
        division._replace(group=division.group[kept], document=division.document[kept], size=size[kept]),
        LAYERS,
    )
    assert found.documents[1] == 1 and np.isnan(found.half[1]).all()
    assert [need.value for need in found.needs] == ["other"]


def test_no_direction_is_named_without_evidence() -> None:
    """One document shows no scatter; a difference within its interval is none; few assignments make no specialist."""
    alone = effects(*measured(1)[:2], LAYERS)
    assert np.isnan(alone.half).all() and not alone.needs and "No value has a specialist" in verdict(alone)
    found = effects(*measured(40)[:2], LAYERS)
    wide = found._replace(domains=[one._replace(half=9.0) for one in found.domains])
    assert "no difference shown" in verdict(wide)
    assert between(1.0, math.nan) == "-"


@pytest.mark.parametrize("documents", [40, 1])
def test_the_file_gives_back_what_was_written(tmp_path: Path, documents: int) -> None:
    """NaN included, which is null there."""
    found = effects(*measured(documents)[:2], LAYERS)
    about = {"checkpoint": "a.ckpt", "step": 3, "split": "val", "ablate_mode": "zero", "ablation/tokens": 9}
    write_ablation(Ablation(found, about), tmp_path / "a")
    back = read_ablation(tmp_path / "a")
    assert back.about == about
    for name in Effects._fields:
        mine, its = getattr(found, name), getattr(back.effects, name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, its)
        else:
            assert mine == its, name
    row = next(
        r for r in pq.read_table(tmp_path / "a").to_pylist() if (r["layer"], r["expert"], r["value"]) == (4, 2, "SIX")
    )
    assert row["change"] == found.change[1, 1, 2] and row["bytes"] == found.size[1] and row["domain"] == "event"
    record = Ablation(found, about).record()
    assert record["ablation/half"][0][0] is None if documents == 1 else record["ablation/half"][0][0] > 0
    assert len(record["ablation/specialists"]) == (2 if documents == 40 else 0)
