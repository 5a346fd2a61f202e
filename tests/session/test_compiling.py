"""Compiled blocks: one compilation per kind of block, and the same training."""

from __future__ import annotations

import copy
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch._inductor import cpp_builder
from torch._inductor.runtime.cache_dir_utils import cache_dir

from s15erav3.balancing import Balancer, Forced, Sinkhorn
from s15erav3.errors import UserError
from s15erav3.model import Transformer, routers
from s15erav3.session import build
from s15erav3.session.compiling import compile_blocks, compile_seconds, compiled_code
from s15erav3.training import losses
from tests.model.reference import random_model, tiny_config, token_ids
from tests.tiny import rows, train


def _step(net: Transformer, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    loss = net.logits(net(ids).hidden).square().mean()
    return (loss.detach(), *torch.autograd.grad(loss, list(net.parameters())))


def test_blocks_of_a_kind_are_compiled_once() -> None:
    """However many layers there are: training, a whole and a partial batch of validation, for dense and MoE blocks."""
    config = tiny_config(num_layers=8, first_k_dense_replace=2)
    eager = random_model(config, 0)
    net = copy.deepcopy(eager)
    for i, router in enumerate(routers(net)):
        router.bias.copy_(torch.linspace(-0.1, 0.1, config.n_routed_experts).roll(i))
    eager.load_state_dict(net.state_dict())
    torch._dynamo.reset()
    counters.clear()
    compile_blocks(net, "cpu", backend="aot_eager")
    assert net.state_dict().keys() == eager.state_dict().keys()
    for seed in range(2):
        ids = token_ids(config, 2, 9, seed=seed)
        for got, want in zip(_step(net, ids), _step(eager, ids), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        for batch in (4, 1):
            ids = token_ids(config, batch, 9, seed=3)
            assert [r.load.tolist() for r in net(ids).routings] == [r.load.tolist() for r in eager(ids).routings]
    assert counters["stats"]["unique_graphs"] <= 6, dict(counters["stats"])
    assert not counters["graph_break"]
    assert (compile_seconds(net) or 0) > 0
    assert compile_seconds(eager) is None


@pytest.mark.parametrize("balancer", [Sinkhorn(), Forced("even"), Forced("zipf")])
@pytest.mark.slow
def test_what_selects_experts_is_compiled_once_as_well(balancer: Balancer) -> None:
    """Seen to fail with a condition on a tensor's value in each of the two (a graph break)."""
    config = tiny_config(num_layers=8, first_k_dense_replace=2)
    net = random_model(config, 0)
    balancer.attach(routers(net))
    torch._dynamo.reset()
    counters.clear()
    compile_blocks(net, "cpu", backend="aot_eager")
    for seed in range(2):
        assert all(grad.isfinite().all() for grad in _step(net, token_ids(config, 2, 9, seed=seed)))
    assert counters["stats"]["unique_graphs"] <= 4, dict(counters["stats"])
    assert not counters["graph_break"]


@pytest.mark.slow
def test_many_sizes_in_one_process_are_all_compiled() -> None:
    """As the jobs of a sweep: torch compiles at most some versions of a function, and then runs it without a word."""
    for size in range(1, 11):
        net = random_model(tiny_config(hidden_size=16 * size, num_layers=1, first_k_dense_replace=0), 0)
        counters.clear()
        compile_blocks(net, "cpu", backend="eager")
        _step(net, token_ids(net.config, 2, 9))
        assert counters["stats"]["unique_graphs"] == 1, size
        assert (compile_seconds(net) or 0) > 0


@pytest.mark.parametrize("more", [[], ["model.num_nextn_predict_layers=1"]], ids=["plain", "mtp"])
@pytest.mark.slow
def test_a_run_needs_no_more_versions_of_a_block_than_torch_compiles(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, the probe of a step's churn, whole and partial batches of validation, samples, and all of it again.
    Torch would go on with eager blocks. Seen to fail with blocks that are compiled for the samples too."""
    monkeypatch.setattr(build, "compile_blocks", partial(compile_blocks, backend="eager"))
    monkeypatch.setattr(losses, "_compiled", lambda: losses._in_one_pass)
    counters.clear()
    settings = ["compile=true", "trainer.max_steps=4", "trainer.val_check_interval=2", "data.eval_batch_size=48", *more]
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        assert train(*settings, run_dir=tmp_path / "run") == 0
    assert {row["step"] for row in rows(tmp_path / "run" / "samples.jsonl")} == {2, 4}
    assert counters["stats"]["unique_graphs"] <= 7, dict(counters["stats"])
    assert not counters["graph_break"]


def test_compiled_code_is_kept_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where torch has already named its own folder, which it does when torch._dynamo is imported."""
    monkeypatch.setenv("S15ERAV3_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert compiled_code() == tmp_path / "compiled"
    assert cache_dir() == os.environ["TORCHINDUCTOR_CACHE_DIR"] != str(tmp_path / "compiled")
    assert compiled_code() == tmp_path / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert compiled_code() == tmp_path / "mine"


def test_a_gpu_needs_a_compiler_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of C, by Triton: its own error would come in the first step, with a traceback."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    net = random_model(tiny_config(), 0)
    with pytest.raises(UserError, match=r"compile=true needs a C compiler on a GPU, .* install gcc"):
        compile_blocks(net, "cuda")
    monkeypatch.setenv("CC", "mine")
    compile_blocks(net, "cuda")


def test_a_missing_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    cpp_builder.cpp_compiler_search.cache_clear()
    missing = r"compile=true needs a C\+\+ compiler .* install g\+\+"
    try:
        with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(UserError, match=missing):
            compile_blocks(random_model(tiny_config(), 0), "cpu")
    finally:
        cpp_builder.cpp_compiler_search.cache_clear()
