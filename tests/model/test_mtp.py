"""Multi-token prediction against transformers' MtpModel, and what it must leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from s15erav3.model import ModelConfig, Transformer, routers
from s15erav3.model.kv_cache import LatentCache
from s15erav3.model.norm import RMSNorm
from tests.model.reference import (
    DENSE,
    arithmetic,
    close,
    hf_mtp,
    hf_mtp_name,
    hf_name,
    hf_routings,
    hf_twin,
    random_model,
    small_configs,
    tiny_config,
    token_ids,
)


def mtp_model(depth: int, seed: int = 0, **values: Any) -> Transformer:
    return random_model(tiny_config(num_nextn_predict_layers=depth, **values), seed).double()


def loss_ahead(net: Transformer | nn.Module, states: list[Tensor], ids: Tensor) -> Tensor:
    """Cross-entropy of each depth's predictions: the state at i of depth k foretells token i + k + 1."""
    head = net.lm_head
    total = torch.zeros((), dtype=torch.float64)
    for k, state in enumerate(states, start=1):
        total = total + k * F.cross_entropy(head(state[:, :-1]).flatten(0, 1), ids[:, k + 1 :].flatten())
    return total


@settings(max_examples=25, derandomize=True)
@given(
    config=small_configs(num_nextn_predict_layers=2).filter(lambda c: c.n_routed_experts > 0),
    depth=st.integers(1, 2),
    shape=st.tuples(st.integers(1, 3), st.integers(5, 12)),
    seed=st.integers(0, 10_000),
)
def test_every_depth_is_transformers(config: ModelConfig, depth: int, shape: tuple[int, int], seed: int) -> None:
    """Catches swapped halves of the projection, a forgotten norm, tokens or states taken one place off."""
    config = ModelConfig.from_dict(config.to_dict() | {"num_nextn_predict_layers": depth})
    model = random_model(config, seed).double()
    twin = hf_twin(model)
    mtp = hf_mtp(model, twin)
    ids = token_ids(config, *shape, seed=seed + 1)
    found = hf_routings(twin)
    theirs = []
    with arithmetic(torch.float64):
        state = twin.model(input_ids=ids).last_hidden_state
        found += (late := hf_routings(mtp))
        for k in range(1, depth + 1):
            length = shape[1] - k
            positions = torch.arange(length)[None]
            state = mtp.forward_layer(k - 1, state[:, :length], positions, None, input_ids=ids[:, k:])
            theirs.append(state)
        loss_ahead(twin, theirs, ids).backward()
    out = model(ids, look_ahead=True)
    loss_ahead(model, list(out.ahead), ids).backward()

    assert len(out.ahead) == depth
    for k, (ours, state) in enumerate(zip(out.ahead, theirs, strict=True), start=1):
        close(ours, state, f"states of depth {k}", 1e-10)
        close(model.logits(ours), twin.lm_head(state), f"logits of depth {k}", 1e-10)
    assert len(out.routings) == len(found + late) == config.num_moe_layers + depth
    for routing, (scores, _, experts) in zip(out.routings, found + late, strict=True):
        close(routing.scores, scores, "scores", 1e-10)
        assert torch.equal(routing.experts.sort(-1).values, experts.sort(-1).values)
    expected = dict(twin.named_parameters()) | {n: p for n, p in mtp.named_parameters() if n.startswith("layers.")}
    for name, parameter in model.named_parameters():
        other = expected[hf_mtp_name(name) if name.startswith("mtp.") else hf_name(name)].grad
        assert parameter.grad is not None and other is not None, name
        close(parameter.grad, other, f"gradient of {name}", 1e-10, floor=1e-4)  # some vanish: see test_parity


def test_a_dense_model_looks_ahead_with_dense_blocks() -> None:
    """transformers has no such thing; written out from its parts, the equations 21 to 23 hold all the same."""
    model = mtp_model(2, **DENSE, rms_norm_eps=1e-2)
    ids = token_ids(model.config, 2, 8)
    out = model(ids, look_ahead=True)
    assert out.routings == ()
    state = out.hidden
    for k, block in enumerate(model.mtp, start=1):
        length = 8 - k
        joined = torch.cat((block.enorm(model.embed_tokens(ids[:, k:])), block.hnorm(state[:, :length])), dim=-1)
        cos, sin = model._angles(ids[:, k:], None)
        state = block.norm(block.block(joined @ block.eh_proj.weight.T, cos, sin)[0])
        close(out.ahead[k - 1], state, f"depth {k}", 1e-12)


@pytest.mark.parametrize("dense", [{}, DENSE])
def test_the_main_model_does_not_notice_and_looking_ahead_is_off_by_default(dense: dict[str, int]) -> None:
    """Evaluation, sampling and a model without the blocks must give the same numbers, to the bit."""
    model = mtp_model(2, **dense)
    plain = Transformer(tiny_config(**dense)).double()
    missing = plain.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("mtp.")})
    assert not missing.missing_keys
    ids = token_ids(model.config, 2, 9)
    ahead, quiet, alone = model(ids, look_ahead=True), model(ids), plain(ids, look_ahead=True)
    assert quiet.ahead == alone.ahead == ()
    assert len(quiet.routings) == len(alone.routings) == model.config.num_moe_layers
    assert torch.equal(ahead.hidden, quiet.hidden) and torch.equal(ahead.hidden, alone.hidden)


def test_a_prediction_never_sees_the_token_it_predicts() -> None:
    """Depth k at i knows the tokens up to i + k: a look at the next one would make its loss worthless."""
    model = mtp_model(3, num_layers=2)
    ids = token_ids(model.config, 2, 10)
    before = model(ids, look_ahead=True).ahead
    for j in (1, 4, 6, 9):
        changed = ids.clone()
        changed[:, j] = (changed[:, j] + 1) % model.config.vocab_size
        for k, (old, new) in enumerate(zip(before, model(changed, look_ahead=True).ahead, strict=True), start=1):
            first = max(0, j - k)  # the first place that may see token j
            torch.testing.assert_close(new[:, :first], old[:, :first], rtol=1e-12, atol=1e-12)
            assert ((new - old)[:, first:].abs().amax(dim=-1) > 1e-9).all()


@pytest.mark.parametrize("length", [4, 5, 64])
def test_each_depth_is_one_state_shorter(length: int) -> None:
    """Catches states of the last places, whose token is not known, that are kept."""
    out = mtp_model(3)(token_ids(tiny_config(), 2, length), look_ahead=True)
    assert [state.shape for state in out.ahead] == [(2, length - k, 32) for k in (1, 2, 3)]
    assert out.hidden.shape == (2, length, 32)


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_head_are_those_of_the_main_model(tied: bool) -> None:
    """Equation 23 shares both: a copy of its own would be parameters that the paper does not count."""
    model = mtp_model(2, tie_word_embeddings=tied)
    names = {name for name, _ in model.named_parameters() if name.startswith("mtp.")}
    assert not [name for name in names if "embed" in name or "head" in name]
    ids = token_ids(model.config, 2, 9)
    state = model(ids, look_ahead=True).ahead[1]
    model.logits(state)[:, :, 0].sum().backward()
    used = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {"embed_tokens.weight"} | ({"lm_head.weight"} if not tied else set()) <= used
    assert names - {n for n in names if "experts" in n or "router" in n} <= used


def test_the_gradient_of_the_embedding_has_a_part_from_each_depth() -> None:
    """Catches an embedding that is detached on its way into the blocks."""
    model = mtp_model(2, tie_word_embeddings=False)
    ids = torch.arange(9)[None]  # token t stands at place t alone
    for k in (1, 2):
        model.zero_grad()
        hidden = model(ids).hidden.detach()
        state, _ = model.predict_ahead(k, hidden[:, : 9 - k], ids[:, k:])
        state.square().sum().backward()
        grad = model.embed_tokens.weight.grad
        assert grad is not None
        assert (grad[:9].abs().amax(dim=-1) > 1e-9).tolist() == [t >= k for t in range(9)]


def test_routers_come_in_the_order_of_the_routings_with_those_ahead_last() -> None:
    """Loads of one layer must not move the bias of another; blocks left out are never balanced."""
    model = mtp_model(2)
    config = model.config
    ids = token_ids(config, 2, 9)
    assert config.moe_layers == (1, 2, 3, 4) and config.num_moe_layers == 2
    assert len(routers(model)) == 4
    for layer in range(4):
        for router in routers(model):
            router.bias.zero_()
        routers(model)[layer].bias[5] = 100.0
        routings = model(ids, look_ahead=True).routings
        tokens = [18, 18, 16, 14]
        assert [int(r.load.sum()) for r in routings] == [2 * n for n in tokens]
        assert [int(r.load[5]) == n for r, n in zip(routings, tokens, strict=True)] == [i == layer for i in range(4)]


def test_new_blocks_are_initialised_like_all_others() -> None:
    """Catches blocks made after the initial weights were drawn."""
    torch.manual_seed(0)
    model = Transformer(tiny_config(num_nextn_predict_layers=2, initializer_range=0.5, attention_bias=True))
    for block in model.mtp:
        assert block.eh_proj.weight.std().item() == pytest.approx(0.5, rel=0.1)
        assert block.block.mlp.router.weight.std().item() == pytest.approx(0.5, rel=0.25)
        assert all((m.weight == 1).all() for m in block.modules() if isinstance(m, RMSNorm))
        assert (block.block.self_attn.o_proj.bias == 0).all()
    assert not torch.equal(model.mtp[0].eh_proj.weight, model.mtp[1].eh_proj.weight)


@pytest.mark.parametrize("static", [False, True])
def test_a_block_decodes_with_a_cache_of_its_own(static: bool) -> None:
    """Drafting reads one place at a time; it must say what training said of that place."""
    model = mtp_model(2, rope_scaling={"factor": 4.0, "original_max_position_embeddings": 16}, q_lora_rank=24)
    ids = token_ids(model.config, 2, 11)
    out = model(ids, look_ahead=True)
    for k, below in ((1, out.hidden), (2, out.ahead[0])):
        cache = LatentCache(model.config, 2, 16, device=ids.device, dtype=torch.float64, layers=1, static=static)
        assert cache.bytes_per_token == (20 + 8) * 8
        states, at = [], 0
        for count in (3, 1, 1, 2, 11 - k - 7):
            places = slice(at, at + count)
            later = ids[:, at + k : at + k + count]
            states.append(model.predict_ahead(k, below[:, places], later, cache.advance(count))[0])
            at += count
        close(torch.cat(states, dim=1), out.ahead[k - 1], f"depth {k}", 1e-10)
