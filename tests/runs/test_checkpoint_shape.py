"""A checkpoint that loads without executing anything may still hold anything: one sentence, or it works."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s15erav3.__main__ import main
from s15erav3.errors import UserError
from s15erav3.runs.checkpoint import load_checkpoint, load_model
from tests.tiny import train

Payload = dict[str, Any]
CHECKPOINTS = ("last.ckpt", "best.ckpt")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run."""
    folder = tmp_path_factory.mktemp("shape") / "run"
    assert train("trainer.max_steps=2", run_dir=folder) == 0
    return folder


@pytest.fixture(scope="module")
def payload(run_dir: Path) -> Payload:
    """Its checkpoint."""
    loaded: Payload = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return loaded


def calls(run: Path, new: Path) -> dict[str, list[str]]:
    """Each verb that reads a checkpoint, on that of ``run``; what it writes is ``new``."""
    return {
        "evaluate": ["evaluate", str(run), "eval_batch_size=64"],
        "sample": ["sample", str(run), "prompt=a", "max_new_tokens=2"],
        "export": ["export", str(run), str(new / "hub")],
        "report": ["report", str(run), "max_tokens=200"],
        "resume": ["train", f"resume={run}", "trainer.max_steps=3"],
        "init_from": [
            *("train", f"init_from={run}", "trainer.max_steps=1", f"hydra.run.dir={new / 'run'}", "report=false"),
            *("trainer.accelerator=cpu", "data.sequence_length=32", "data.batch_size=4", "callbacks=none"),
        ],
    }


def place(payload: Payload, key: str) -> tuple[Any, Any]:
    """The container and the last key of a path whose parts are separated by ``/``; ``|`` stands for one in a key."""
    node: Any = payload
    *path, last = (int(part) if part.isdecimal() else part.replace("|", "/") for part in key.split("/"))
    for part in path:
        node = node[part]
    return node, last


GONE = object()
WEIGHT = "state_dict/net.embed_tokens.weight"
OPTIMIZER = "optimizer_states/0"
LOOPS = "loops/fit_loop"
STEPS = f"{LOOPS}/epoch_loop.manual_optimization.optim_step_progress/total"
BEST = (
    "callbacks/ModelCheckpoint{'monitor': 'val|bpb', 'mode': 'min', 'every_n_train_steps': 0, "
    "'every_n_epochs': 1, 'train_time_interval': None}"
)
EVERYWHERE: dict[str, Any] = {
    "run": (GONE, None, 3, [], {}, "x"),
    "state_dict": (GONE, None, [], {}, "x"),
    "global_step": (GONE, None, -1, "3", 1.5, True, 10**30),
    WEIGHT: (GONE, None, 1.0, torch.zeros(3), torch.zeros(512, 32, dtype=torch.complex64)),
    "state_dict/net.norm.weight": (
        torch.zeros(32).to_sparse(),
        torch.zeros(1).expand(32),
        torch.empty(32, device="meta"),
    ),
    "run/config": (GONE, None, "x", {}),
    "run/config/data": (None, {}, {"name": 1}),
    "run/config/balancing": (GONE, None, [1]),
    "run/model": (None, {}, {"vocab_size": 3}, {1: 2}),
    "run/model/num_layers": (GONE, 10**12, -1, "3", None, 2.0),
    "run/model/hidden_size": (10**12, 8, 0),
    "run/model/n_routed_experts": (10**15, 0),
    "run/model/vocab_size": (10**15, 513),
    "run/model/rope_scaling": (3, {"factor": float("nan"), "original_max_position_embeddings": 9}, []),
    "run/model/scoring_func": (3, [], {}),
    "run/tokenizer": (GONE, {}, {"name": 3}, {"name": "nope"}, {"name": "../../etc/passwd"}),
    "run/tokenizer/pattern": (GONE, None, "(", 3, "(?:a*)*b"),
    "run/tokenizer/tokens": (None, [], ["YQ=="], ["YQ=="] * 511, [1, 2], "x"),
    "run/tokenizer/special": (GONE, None, {}, {3: 4}, *({"<|endoftext|>": end} for end in ("x", 10**9, 0))),
    "run/sequence_length": (GONE, 0, "x", 10**12, 1.5),
}
ON_RESUME: dict[str, Any] = {
    "optimizer_states": (GONE, None, [], [3], [{}], {}),
    f"{OPTIMIZER}/state": (GONE, None, [], {"x": 1}),
    f"{OPTIMIZER}/state/0": ({}, None, 3),
    f"{OPTIMIZER}/state/0/exp_avg": (GONE, None, "x", torch.zeros(3), torch.zeros(2, 2, 2)),
    f"{OPTIMIZER}/state/0/step": (GONE, None, "x", torch.zeros(3)),
    f"{OPTIMIZER}/param_groups": (None, [3], [{}]),
    f"{OPTIMIZER}/param_groups/0/params": (None, [], 3),
    "loops": (GONE, None, 3, {}),
    LOOPS: (GONE, None, {}),
    STEPS: (GONE, None, {}, {"ready": 1}),
    f"{STEPS}/completed": ("x", None, 1.5, 10**9),
    "callbacks": (GONE, None, 3, [1]),
    "callbacks/Telemetry": (None, {}, {"losses": 3}, {"losses": [["x"]]}, {"losses": [[1.0] * 9]}),
    f"{BEST}/best_model_score": (GONE, "x", 3, torch.zeros(3)),
    f"{BEST}/best_k_models": (None, 3, {"x": "y"}),
    f"{BEST}/kth_value": ("x", torch.zeros(3)),
    f"{BEST}/best_model_path": (GONE, 3, None),
    "rng": (GONE, None, {}, 3),
    "rng/python": (GONE, None, [3, [1], None], [3, ["x"] * 625, None]),
    "rng/numpy": (None, ["x"], ["MT19937", torch.zeros(3), 1, 0, 0.0]),
    "rng/torch": (None, torch.zeros(3), torch.zeros(3, dtype=torch.uint8)),
    "seen": (GONE, None, {}, {"samples": "x", "tokens": 1}, {"samples": -1, "tokens": 1}),
    "CommentaryData": (GONE, None, {}, {"samples_seen": "x"}),
    "CommentaryData/samples_seen": (GONE, "x", None, -1, 1.5),
    "CommentaryData/tokens": (GONE, 3, None),
    "lr_schedulers": (None, 3, [3]),
    "pytorch-lightning_version": (GONE, None, 3, "x", "999.0.0"),
    "epoch": ("x", None),
}


def with_change(payload: Payload, key: str, value: Any) -> Payload:
    """A payload in which one part is another, or gone."""
    changed = copy.deepcopy(payload)
    container, last = place(changed, key)
    if value is GONE:
        del container[last]
    else:
        container[last] = value
    return changed


def assert_told(
    run_dir: Path, bad: Payload, folder: Path, capsys: pytest.CaptureFixture[str], verbs: tuple[str, ...]
) -> dict[str, str]:
    """Every verb works on a run with that checkpoint, or says one sentence and leaves all as it was."""
    run, told = folder / "bad", {}
    shutil.copytree(run_dir, run)
    for name in CHECKPOINTS:
        torch.save(bad, run / "checkpoints" / name)
    for verb in verbs:
        before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        capsys.readouterr()
        status = main(calls(run, folder)[verb])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        if status == 0:
            continue
        assert status == 2, (verb, status, said)
        (line,) = said.strip().splitlines()
        assert line.startswith("error: ") and str(run) in line and len(line) < 1200, (verb, line)
        assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before, verb
        told[verb] = line
    return told


def variations(table: dict[str, Any]) -> Iterator[Any]:
    """Each value of each part; all but the first are slow."""
    for key, values in table.items():
        for i, value in enumerate(values):
            name = f"{key.replace(BEST, 'best')[-30:]}-{i}"
            yield pytest.param(key, value, id=name, marks=[pytest.mark.slow] if i else [])


@pytest.mark.slow
def test_a_payload_as_it_was_written_is_read_by_every_verb(
    run_dir: Path, payload: Payload, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control of the tests below."""
    assert assert_told(run_dir, payload, tmp_path, capsys, tuple(calls(tmp_path, tmp_path))) == {}


@pytest.mark.parametrize(("key", "value"), variations(EVERYWHERE))
def test_a_part_that_every_verb_reads(
    key: str, value: Any, run_dir: Path, payload: Payload, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing, of another type, or of a size that no machine has: never a traceback, nothing half-written."""
    slow = value is not EVERYWHERE[key][0]
    verbs = ("evaluate", "export", "report", "init_from", "resume", "sample") if slow else ("sample",)
    assert_told(run_dir, with_change(payload, key, value), tmp_path, capsys, verbs)


@pytest.mark.parametrize(("key", "value"), variations(ON_RESUME))
@pytest.mark.slow
def test_a_part_that_only_resuming_reads(
    key: str, value: Any, run_dir: Path, payload: Payload, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is looked at before anything of the run is moved or overwritten, and the other verbs do not mind."""
    told = assert_told(
        run_dir,
        with_change(payload, key, value),
        tmp_path,
        capsys,
        ("sample", "resume") if value is not ON_RESUME[key][0] else ("resume",),
    )
    assert "sample" not in told


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every node of plain containers."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in inner:
        yield (*path, key)
        yield from nodes(value, (*path, key))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.sampled_from([[], {}, [[]], {"a": 1}, {1: 2}, [1.5] * 3, "../..", "${oc.env:HOME}"]),
    st.sampled_from([torch.zeros(0), torch.zeros(3), torch.zeros((), dtype=torch.int64), torch.zeros(32, 32)]),
)


def mutated(payload: Payload, data: st.DataObject) -> Payload:
    """A payload with another value in one of its nodes: of a part that is drawn first, as most nodes are tokens."""
    changed = copy.deepcopy(payload)
    part = data.draw(st.sampled_from(sorted(changed)))
    depth = data.draw(st.integers(1, 6))
    ways = [(part, *way) for way in nodes(changed[part])] + [(part,)]
    ways = [way for way in ways if len(way) <= depth]
    *path, last = data.draw(st.sampled_from(ways))
    node: Any = changed
    for key in path:
        node = node[key]
    if isinstance(node, tuple):
        return changed
    node[last] = data.draw(VALUES)
    return changed


def check_model(payload: Payload, folder: Path, data: st.DataObject) -> None:
    """Reading a changed checkpoint works or is a UserError."""
    file = folder / "mutated.ckpt"
    torch.save(mutated(payload, data), file)
    try:
        load_model(load_checkpoint(file), file)
    except UserError as error:
        said = str(error)
        assert str(file) in said and "\n" not in said


@given(data=st.data())
def test_a_payload_with_any_part_changed_is_read_or_told(payload: Payload, data: st.DataObject) -> None:
    """What evaluate, sample and export begin with."""
    with TemporaryDirectory() as folder:
        check_model(payload, Path(folder), data)


def check_resume(run_dir: Path, payload: Payload, data: st.DataObject) -> None:
    """Resuming from a changed checkpoint works, or is refused in a sentence before anything is touched."""
    with TemporaryDirectory() as folder:
        run = Path(shutil.copytree(run_dir, Path(folder) / "run"))
        changed = mutated(payload, data)
        for name in CHECKPOINTS:
            torch.save(changed, run / "checkpoints" / name)
        before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
        said = io.StringIO()
        with redirect_stderr(said), redirect_stdout(said):
            status = main(calls(run, Path(folder))["resume"])
        assert status in (0, 2) and "Traceback" not in said.getvalue()
        if status == 2 and "diverged" not in said.getvalue():
            assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


@settings(max_examples=5)
@given(data=st.data())
def test_a_run_with_any_part_changed_goes_on_or_is_told(run_dir: Path, payload: Payload, data: st.DataObject) -> None:
    """Some examples of the next test."""
    check_resume(run_dir, payload, data)


@pytest.mark.slow
@settings(max_examples=60)
@given(data=st.data())
def test_many_runs_with_any_part_changed(run_dir: Path, payload: Payload, data: st.DataObject) -> None:
    """Every part of a checkpoint, down to single numbers."""
    check_resume(run_dir, payload, data)
