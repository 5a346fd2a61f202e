"""One process, DDP, FSDP and expert parallelism train the same model on the same global batches.

The oracle is the single process. All runs accumulate gradients over two micro-batches, clip them, and predict tokens
further ahead (MTP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader

from s15erav3.balancing.diagnostics import rank_loads
from s15erav3.runs.parts import joined, parts_of
from s15erav3.training import exchange
from tests.training.together import assert_same, fit, in_ranks

SHARDED = ("fsdp", "expert_parallel")
PRESENT = ("one", "ddp", *SHARDED)
COPIES = ("fsdp_copies", "expert_parallel_copies")
"""Two copies of the model, each divided over half of the ranks."""
FAST: dict[str, dict[str, Any]] = {"adamw": {"steps": 3}, "muon": {"optimizer": "muon", "steps": 2}}
SLOW: dict[str, dict[str, Any]] = {
    "skipped": {"bad_step": 1, "skip_nonfinite": 1},
    "muon_skipped": {"optimizer": "muon", "bad_step": 1, "skip_nonfinite": 1},
    "recomputed": {"recompute": "full"},
    "single": {"balancing": "single"},  # the second rank has no token to multiply
}
BF16 = {"precision": "bf16-mixed", "steps": 2}

Found = dict[tuple[str, str], list[dict[str, Any]]]
"""What each rank found, by form and case."""


def all_of(cases: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The runs of one rank."""
    return [fit(form, **settings) for form, settings in cases]


def by_two(cases: Mapping[tuple[str, str], Mapping[str, Any]], folder: Path) -> Found:
    """Run all cases in two ranks."""
    found = in_ranks(2, partial(all_of, [(form, settings) for (form, _), settings in cases.items()]), folder)
    return dict(zip(cases, map(list, zip(*found, strict=True)), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``two`` saves ``FORM.ckpt``."""
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two(folder: Path) -> Found:
    """The fast cases."""
    cases = {(form, case): dict(settings) for form in SHARDED for case, settings in FAST.items()}
    for form in SHARDED:
        cases[form, "adamw"] |= {"save": str(folder / f"{form}.ckpt"), "save_parts": str(folder / f"{form}.in.ckpt")}
    return by_two(cases, folder)


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, dict[str, Any]]:
    """The single process, by case."""
    saved = FAST["adamw"] | {"save": str(folder / "one.ckpt")}
    return {case: fit("one", **settings) for case, settings in (FAST | {"adamw": saved}).items()}


@pytest.mark.parametrize("case", FAST)
@pytest.mark.parametrize("form", SHARDED)
def test_two_ranks_train_as_one(two: Found, one: Any, form: str, case: str) -> None:
    """Step by step."""
    for rank in range(2):
        assert_same(two[form, case][rank], one[case])


@pytest.mark.parametrize("form", SHARDED)
@pytest.mark.parametrize("case", FAST)
def test_each_rank_holds_half(two: Found, one: Any, form: str, case: str) -> None:
    """Parameters, gradients and optimizer state, in bytes; a dimension of an odd size is not divided evenly."""
    halves = [found["bytes"] for found in two[form, case]]
    assert sum(halves) == pytest.approx(one[case]["bytes"], rel=0.005)  # each has the step counters
    assert max(halves) < 0.52 * one[case]["bytes"]


@pytest.mark.parametrize("form", SHARDED)
def test_a_checkpoint_is_that_of_one_process(two: Found, one: Any, folder: Path, form: str) -> None:
    """Same keys, shapes and values, the optimizer's included, and a tied weight once."""
    saved, wanted = (torch.load(folder / f"{name}.ckpt", weights_only=True) for name in (form, "one"))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(saved[part], wanted[part], rtol=1e-5, atol=2e-6)
    state = saved["state_dict"]
    assert state["net.lm_head.weight"].data_ptr() == state["net.embed_tokens.weight"].data_ptr()


@pytest.mark.parametrize("form", SHARDED)
def test_a_checkpoint_in_parts_is_the_gathered_one(two: Found, folder: Path, form: str) -> None:
    """Bit for bit, read by us and by torch.distributed.checkpoint; no file holds a whole tensor that is divided."""
    wanted, file = torch.load(folder / f"{form}.ckpt", weights_only=True), folder / f"{form}.in.ckpt"
    found = joined(torch.load(file, weights_only=True), file)
    exact = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(found["state_dict"], wanted["state_dict"], **exact)
    torch.testing.assert_close(found["optimizer_states"], wanted["optimizer_states"], **exact)
    assert found["state_dict"]["net.lm_head.weight"] is found["state_dict"]["net.embed_tokens.weight"]
    (parts,) = parts_of(file).iterdir()
    assert sorted(part.name for part in parts.iterdir()) == ["00000.safetensors", "00001.safetensors"]
    reader = HuggingFaceStorageReader(str(parts))
    weights = {
        f"state_dict/{name}": torch.full_like(weight, torch.nan) for name, weight in wanted["state_dict"].items()
    }
    known = reader.read_metadata().state_dict_metadata
    weights = {name: weight for name, weight in weights.items() if name in known}
    assert len(weights) > 20
    dcp.load(weights, storage_reader=reader, no_dist=True)
    for name, weight in weights.items():
        assert torch.equal(weight, wanted["state_dict"][name.removeprefix("state_dict/")]), name


@pytest.mark.slow
def test_skipped_steps_and_idle_ranks(tmp_path: Path) -> None:
    """A step that is not finite on one rank changes nothing on any; a rank may get no token; parts may run again."""
    found = by_two({(form, case): settings for form in SHARDED for case, settings in SLOW.items()}, tmp_path)
    wanted = {case: fit("one", **settings | {"recompute": "none"}) for case, settings in SLOW.items()}
    for (_, case), ranks in found.items():
        for rank in ranks:
            assert_same(rank, wanted[case])


@pytest.mark.slow
def test_bf16_keeps_routers_in_fp32(tmp_path: Path) -> None:
    """Blocks are gathered in bf16, routers are not; experts that stay are cast where they multiply, as with DDP."""
    found = by_two({(form, "bf16"): BF16 for form in PRESENT[1:]}, tmp_path)
    ddp = found["ddp", "bf16"][0]
    for form in SHARDED:
        here = found[form, "bf16"][0]
        assert here["dtypes"] == {
            "router": torch.float32,
            "experts": torch.bfloat16 if form == "fsdp" else torch.float32,
            "shared_experts.gate_proj": torch.bfloat16,
        }
        for page, other in zip(here["pages"], ddp["pages"], strict=True):
            torch.testing.assert_close(page["loss"], other["loss"], rtol=3e-3, atol=0)
            torch.testing.assert_close(page["norm"], other["norm"], rtol=3e-2, atol=0)
        assert all(weight.dtype == torch.float32 for weight in here["weights"].values())


def test_tokens_that_travel_to_a_rank() -> None:
    """By hand: four experts on two ranks."""
    loads = torch.tensor([[1, 2, 3, 4], [5, 0, 0, 0]])
    assert rank_loads(loads, 2).tolist() == [[3, 7], [5, 0]]


def rows_that_came(form: str) -> tuple[list[int], dict[str, Any]]:
    """The rows that this rank multiplied in one step, and what the run told."""
    came: list[int] = []
    real = exchange.grouped_swiglu

    def counted(rows: torch.Tensor, *others: Any) -> torch.Tensor:
        came.append(len(rows))
        return real(rows, *others)

    exchange.grouped_swiglu = counted  # in a process of its own
    return came, fit(form, "none", steps=1)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "form"), [(2, "expert_parallel"), (4, "expert_parallel_copies")])
def test_ranks_are_told_the_tokens_that_came(tmp_path: Path, ranks: int, form: str) -> None:
    """The oracle is the number of rows in the products of each rank."""
    found = in_ranks(ranks, partial(rows_that_came, form), tmp_path)
    wanted = [sum(came) for came, _ in found]
    for _, told in found:
        assert told["received"][0].sum(dim=0).tolist() == wanted
    assert len(set(wanted)) == ranks, "of even loads any order would do"


STRATEGIES = ("loss_free", "quantile", "aux_global", "dsv3")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "steps", "names", "forms"),
    [
        (2, 30, STRATEGIES, PRESENT[1:]),
        (4, 30, ["dsv3"], (*PRESENT[1:], *COPIES)),
        (4, 8, ["quantile"], (*PRESENT[1:], *COPIES)),
    ],
)
def test_every_form_trains_as_one(
    tmp_path: Path, ranks: int, steps: int, names: Sequence[str], forms: Sequence[str]
) -> None:
    """With the strategies of the study."""
    cases = [(form, {"balancing": name, "steps": steps}) for name in names for form in forms]
    found = in_ranks(ranks, partial(all_of, cases), tmp_path)
    for name in names:
        wanted = fit("one", name, steps=steps)
        for rank in found:
            for (_, settings), got in zip(cases, rank, strict=True):
                if settings["balancing"] == name:
                    assert_same(got, wanted)
        parts = {"ddp": 1.0, **dict.fromkeys(SHARDED, 1 / ranks), **dict.fromkeys(COPIES, 2 / ranks)}
        for form, part in ((form, parts[form]) for form in forms):
            held = max(rank[cases.index((form, {"balancing": name, "steps": steps}))]["bytes"] for rank in found)
            assert held / wanted["bytes"] == pytest.approx(part, abs=0.04)


ROUTINGS: dict[str, dict[str, Any]] = {
    "expert_choice": {"balancing": "none", "net": {"topk_method": "expert_choice", "norm_topk_prob": False}},
    "threshold": {"balancing": "expert_threshold", "net": {"topk_method": "threshold", "norm_topk_prob": False}},
}


@pytest.mark.slow
def test_every_way_of_routing_travels(tmp_path: Path) -> None:
    """Slots in other numbers: experts that choose tokens (of a rank: the oracle is DDP), and thresholds."""
    cases = [(form, settings) for settings in ROUTINGS.values() for form in ("ddp", *SHARDED)]
    for rank in in_ranks(2, partial(all_of, cases), tmp_path):
        for i in range(0, len(cases), 3):
            for sharded in rank[i + 1 : i + 3]:
                assert_same(sharded, rank[i])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "forms", "copies"), [("adamw", PRESENT, COPIES), ("muon", ("one", "fsdp"), COPIES[:1])]
)
def test_each_form_resumes_each_other(
    tmp_path: Path, optimizer: str, forms: Sequence[str], copies: Sequence[str]
) -> None:
    """As if the run had never been interrupted, also on four ranks."""
    usual = {"optimizer": optimizer, "balancing": "quantile"}
    files = {form: str(tmp_path / f"{form}.ckpt") for form in (*forms, *copies)}
    wanted = fit("one", steps=4, **usual)
    fit("one", steps=2, save=files["one"], **usual)
    for ranks, here, how in ((2, forms[1:], "save"), (4, copies, "save_parts")):
        in_ranks(ranks, partial(all_of, [(f, {"steps": 2, how: files[f], **usual}) for f in here]), tmp_path)

    def resumed(here: Sequence[str], of: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        return [(form, {"steps": 4, "start": 2, "resume": files[f], **usual}) for form in here for f in of]

    for found in all_of(resumed(["one"], [*files])):
        assert_same(found, wanted, since=2)
    for ranks, here, of in ((2, forms[1:], [*files]), (4, [*forms[1:], *copies], ["fsdp", copies[-1]])):
        for rank in in_ranks(ranks, partial(all_of, resumed(here, of)), tmp_path):
            for found in rank:
                assert_same(found, wanted, since=2)
