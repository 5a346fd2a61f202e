"""Expert choice: even by construction, and shown to leak the future.

Each docstring names mutations of the rule that were tried by hand and that the test was seen to fail with.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from s15erav3.__main__ import main
from s15erav3.balancing import ExpertChoice, LossFree
from s15erav3.errors import UserError
from s15erav3.interop.hf_config import to_hub
from s15erav3.model import Router
from s15erav3.model.generate import generate
from s15erav3.model.moe import MoE
from s15erav3.model.sampling import Sampling
from tests.balancing.parts import config, inputs, micro_batch, reader, softmax_config
from tests.tiny import train
from tests.training.parts import tiny_net

CHOICE = {"topk_method": "expert_choice", "scoring_func": "softmax", "norm_topk_prob": False}


def moe_of(experts: int, k: int, seed: int = 0) -> MoE:
    """A layer in float64 whose terms all count."""
    torch.manual_seed(seed)
    moe = MoE(softmax_config(experts, k, topk_method="expert_choice", routed_scaling_factor=1.5)).double()
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return moe


def naive(moe: MoE, x: Tensor, places: int) -> Tensor:
    """Expert after expert takes its best tokens, one after the other."""
    scores = (x @ moe.router.weight.T).softmax(dim=-1)
    out = torch.zeros_like(x)
    for expert in range(scores.shape[1]):
        best = sorted(range(len(x)), key=lambda t: scores[t, expert].item(), reverse=True)[:places]
        for token in best:
            gate, up = (moe.experts.gate_up_proj[expert] @ x[token]).chunk(2)
            inner = moe.experts.down_proj[expert] @ (F.silu(gate) * up)
            out = out.index_add(0, torch.tensor([token]), (1.5 * scores[token, expert] * inner)[None])
    return out


@pytest.mark.parametrize(
    ("tokens", "experts", "k", "places"), [(12, 4, 1, 3), (10, 4, 2, 5), (7, 3, 1, 3), (5, 8, 2, 2)]
)
def test_every_expert_takes_its_places(tokens: int, experts: int, k: int, places: int) -> None:
    """Also in evaluation. Seen to fail with places rounded down, without K, and with the top K of each token."""
    router = moe_of(experts, k).router
    for mode in (True, False):
        routing = router.train(mode)(torch.randn(tokens, 16).double())
        assert routing.load.tolist() == [places] * experts
        assert routing.experts.tolist() == [e for e in range(experts) for _ in range(places)]
        assert routing.tokens is not None
        for expert in range(experts):
            taken = routing.tokens[expert * places : (expert + 1) * places].tolist()
            best = sorted(range(tokens), key=lambda t: routing.scores[t, expert].item(), reverse=True)[:places]
            assert sorted(taken) == sorted(best)


@pytest.mark.parametrize(("tokens", "experts", "k", "places"), [(12, 4, 1, 3), (7, 3, 2, 5), (5, 8, 2, 2)])
def test_output_and_gradients_are_those_of_a_loop_over_experts(tokens: int, experts: int, k: int, places: int) -> None:
    """In float64, gradients of every parameter and of the input. Seen to fail with weights of another token's, with
    the scaling left out, with detached weights, and with slots written over each other in place of added."""
    moe = moe_of(experts, k)
    x = torch.randn(tokens, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    grad = torch.randn(tokens, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    out, routing = moe(x)
    assert len(set(routing.tokens.tolist())) < len(routing.tokens)  # some token has several experts
    expected = naive(moe, x, places)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    wanted = [x, *moe.parameters()]
    got, want = torch.autograd.grad(out, wanted, grad), torch.autograd.grad(expected, wanted, grad)
    for ours, theirs in zip(got, want, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_a_token_without_an_expert_passes_by() -> None:
    """Its output is exactly 0, the sum over no slots. Seen to fail with an output that begins as the input."""
    moe = moe_of(3, 1)
    moe.router.weight.data.copy_(torch.eye(3, 16))
    out, routing = moe(inputs([[4.0, 4.0, 0.0], [0.0, 1.0, 4.0], [1.0, 1.0, 2.0]]).double())
    assert routing.tokens.tolist() == [0, 0, 1]
    assert (out[2] == 0).all() and (out[:2].abs().amax(dim=1) > 0).all()


def test_a_later_token_changes_an_earlier_ones_experts() -> None:
    """The future leaks: two tokens share expert 0's two places until a third comes that it prefers. Nothing may ever
    hide this. Seen to fail with tokens that choose, as then nothing changes."""
    router = reader(2, 1, **CHOICE).eval()
    first = [[2.0, 0.0], [1.5, 0.0], [0.0, 2.0]]
    before, after = router(inputs([*first, [0.0, 1.0]])), router(inputs([*first, [5.0, 0.0]]))

    def of_token(routing: object, token: int) -> list[int]:
        return routing.experts[routing.tokens == token].tolist()  # type: ignore[attr-defined]

    assert of_token(before, 1) == [0] and of_token(after, 1) != [0]
    chosen = reader(2, 1).eval()
    pair = [chosen(inputs([*first, last])).experts[:3] for last in ([0.0, 1.0], [5.0, 0.0])]
    assert torch.equal(*pair)


def test_hidden_states_of_earlier_tokens_depend_on_later_ones() -> None:
    """The whole model says so, and ``causal`` tells it. Seen to fail with ``causal`` true."""
    ids = torch.arange(12)[None] % 7
    other = ids.clone()
    other[0, -4:] = 30
    for settings, leaks in ((CHOICE, True), ({}, False)):
        net = tiny_net(**settings).eval()
        with torch.no_grad():
            states = [net(i).hidden[0, :8] for i in (ids, other)]
        assert torch.allclose(*states, rtol=1e-4, atol=1e-4) != leaks
        assert net.config.causal != leaks
    assert not ExpertChoice.causal and LossFree.causal


def test_generating_and_exporting_are_refused() -> None:
    """A model that reads the future cannot write. Seen to fail without each check."""
    net = tiny_net(**CHOICE)
    with pytest.raises(ValueError, match="experts that choose"):
        generate(net, [[1, 2]], lambda _, token: True, max_new_tokens=2, sampling=Sampling(), seed=0, context=8)
    with pytest.raises(UserError, match="topk_method=expert_choice cannot be exported"):
        to_hub(tiny_net(**{**CHOICE, "scoring_func": "sigmoid"}).config)


def test_the_verbs_train_it_and_refuse_to_sample_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and one sentence; training leaves out its samples. Seen to fail without the verbs' checks."""
    run_dir = tmp_path / "run"
    assert train("balancing=expert_choice", "trainer.max_steps=2", run_dir=run_dir) == 0
    for verb in (["sample", str(run_dir)], ["export", str(run_dir), str(tmp_path / "out")]):
        capsys.readouterr()
        assert main(verb) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ") and said.count("\n") == 0 and "Traceback" not in said
        assert said.endswith(".") and said.count(". ") == 0
    assert not (tmp_path / "out").exists()


def test_it_moves_no_bias_and_adds_no_loss() -> None:
    """Seen to fail with the sign rule or a loss added: a control is to be nothing but itself."""
    assert ExpertChoice().loss(micro_batch()) is None
    assert (ExpertChoice().bias_update(torch.tensor([[3, 1]]), 0.0) == 0).all()


def test_tokens_that_choose_are_refused() -> None:
    """``balancing=expert_choice`` without its gate would be no balancing. Seen to fail without the check."""
    with pytest.raises(UserError, match="found noaux_tc"):
        ExpertChoice().attach([Router(config(4, 2))])
    with pytest.raises(UserError, match=r"LossFree.*expert_choice"):
        LossFree(0.1).attach([Router(softmax_config(4, 2, topk_method="expert_choice"))])
