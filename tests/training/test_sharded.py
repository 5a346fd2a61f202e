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

from s15erav3.balancing.diagnostics import rank_loads
from tests.training.together import assert_same, fit, in_ranks

SHARDED = ("fsdp", "expert_parallel")
PRESENT = ("one", "ddp", *SHARDED)
CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "muon": {"optimizer": "muon"},
    "skipped": {"bad_step": 1, "skip_nonfinite": 1},
    "muon_skipped": {"optimizer": "muon", "bad_step": 1, "skip_nonfinite": 1},
    "single": {"balancing": "single"},  # the second rank has no token to multiply
}


def all_of(cases: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The runs of one rank."""
    return [fit(form, **settings) for form, settings in cases]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What both ranks found, by form and case."""
    folder = tmp_path_factory.mktemp("two")
    names = [(form, case) for form in SHARDED for case in CASES]
    names += [(form, "bf16") for form in ("ddp", *SHARDED)] + [(form, "saved") for form in SHARDED]
    settings = {(form, case): CASES.get(case, {}) for form, case in names}
    settings |= {(form, "bf16"): {"precision": "bf16-mixed", "steps": 2} for form in ("ddp", *SHARDED)}
    settings |= {(form, "saved"): {"save": str(folder / f"{form}.ckpt"), "steps": 2} for form in SHARDED}
    found = in_ranks(2, partial(all_of, [(form, settings[form, case]) for form, case in names]), folder)
    return dict(zip(names, map(list, zip(*found, strict=True)), strict=True)) | {("", "folder"): folder}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def one() -> dict[str, dict[str, Any]]:
    """The single process, by case."""
    return {case: fit("one", **settings) for case, settings in CASES.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", SHARDED)
def test_two_ranks_train_as_one(two: Any, one: Any, form: str, case: str) -> None:
    """Seen to fail with gradients of experts that are not divided by the ranks, and with rows that are multiplied in the
    order in which they arrive."""
    for rank in range(2):
        assert_same(two[form, case][rank], one[case])


@pytest.mark.parametrize("form", SHARDED)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_rank_holds_half(two: Any, one: Any, form: str, optimizer: str) -> None:
    """Parameters, gradients and optimizer state, in bytes; a dimension of an odd size is not divided evenly."""
    halves = [found["bytes"] for found in two[form, optimizer]]
    assert sum(halves) == pytest.approx(one[optimizer]["bytes"], rel=0.005)  # each has the step counters
    assert max(halves) < 0.52 * one[optimizer]["bytes"]


@pytest.mark.parametrize("form", SHARDED)
def test_bf16_keeps_routers_in_fp32(two: Any, form: str) -> None:
    """Blocks are gathered in bf16, routers are not; experts that stay are cast where they multiply, as with DDP."""
    found, ddp = two[form, "bf16"][0], two["ddp", "bf16"][0]
    assert found["dtypes"] == {
        "router": torch.float32,
        "experts": torch.bfloat16 if form == "fsdp" else torch.float32,
        "shared_experts.gate_proj": torch.bfloat16,
    }
    for page, other in zip(found["pages"], ddp["pages"], strict=True):
        torch.testing.assert_close(page["loss"], other["loss"], rtol=3e-3, atol=0)
        torch.testing.assert_close(page["norm"], other["norm"], rtol=3e-2, atol=0)
    assert all(weight.dtype == torch.float32 for name, weight in found["weights"].items())


@pytest.mark.parametrize("form", SHARDED)
def test_a_checkpoint_is_that_of_one_process(two: Any, tmp_path: Path, form: str) -> None:
    """Same keys, shapes and values, the optimizer's included, and a tied weight once."""
    fit("one", steps=2, save=str(tmp_path / "one.ckpt"))
    saved = torch.load(two["", "folder"] / f"{form}.ckpt", weights_only=True)
    wanted = torch.load(tmp_path / "one.ckpt", weights_only=True)
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(saved[part], wanted[part], rtol=1e-5, atol=2e-6)
    state = saved["state_dict"]
    assert state["net.lm_head.weight"].data_ptr() == state["net.embed_tokens.weight"].data_ptr()


def test_tokens_that_travel_to_a_rank() -> None:
    """By hand: four experts on two ranks."""
    loads = torch.tensor([[1, 2, 3, 4], [5, 0, 0, 0]])
    assert rank_loads(loads, 2).tolist() == [[3, 7], [5, 0]]


STRATEGIES = ("loss_free", "quantile", "aux_global", "dsv3")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_form_trains_as_one_for_thirty_steps(tmp_path: Path, ranks: int) -> None:
    """With every strategy of the study."""
    cases = [(form, {"balancing": name, "steps": 30}) for name in STRATEGIES for form in PRESENT[1:]]
    found = in_ranks(ranks, partial(all_of, cases), tmp_path)
    for name in STRATEGIES:
        wanted = fit("one", name, steps=30)
        for rank in found:
            for (_, settings), got in zip(cases, rank, strict=True):
                if settings["balancing"] == name:
                    assert_same(got, wanted)


ROUTINGS: dict[str, dict[str, Any]] = {
    "expert_choice": {"balancing": "none", "net": {"topk_method": "expert_choice"}},
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
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_form_resumes_each_other(tmp_path: Path, optimizer: str) -> None:
    """As if the run had never been interrupted, on four ranks too. Seen to fail without the optimizer's state."""
    usual = {"optimizer": optimizer, "balancing": "quantile"}
    files = {form: str(tmp_path / f"{form}.ckpt") for form in PRESENT}
    wanted = fit("one", steps=6, **usual)
    fit("one", steps=3, save=files["one"], **usual)
    saving = [(form, {"steps": 3, "save": files[form], **usual}) for form in PRESENT[1:]]
    in_ranks(2, partial(all_of, saving), tmp_path)
    going_on = [
        (form, {"steps": 6, "start": 3, "resume": file, **usual}) for form in PRESENT for file in files.values()
    ]
    for found in all_of(going_on[: len(files)]):
        assert_same(found, wanted, since=3)
    for ranks in (2, 4):
        for rank in in_ranks(ranks, partial(all_of, going_on[len(files) :]), tmp_path):
            for found in rank:
                assert_same(found, wanted, since=3)
