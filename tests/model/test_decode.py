"""The decoder with weights multiplied ahead against the model that reads everything at once, without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters

from s15erav3.model import ModelConfig, Transformer
from s15erav3.model.decode import Decoder
from s15erav3.model.experts import apply_experts, apply_to_few
from s15erav3.model.kv_cache import LatentCache
from s15erav3.model.matrix import Int8
from tests.model.reference import (
    DENSE,
    close,
    naive_experts,
    random_model,
    random_routing,
    small_configs,
    tiny_config,
    token_ids,
)

CONFIGS = st.one_of(
    small_configs(),
    small_configs(num_nextn_predict_layers=2),
    small_configs(scoring_func="softmax", n_shared_experts=0, num_nextn_predict_layers=1),
)
FULL = {
    "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 16},
    "q_lora_rank": 24,
    "attention_bias": True,
}


def new_cache(model: Transformer, batch: int, capacity: int, **more: Any) -> LatentCache:
    settings_ = {"device": torch.device("cpu"), "dtype": model.embed_tokens.weight.dtype, **more}
    return LatentCache(model.config, batch, capacity, **settings_)


@torch.no_grad()
def decoded(decoder: Decoder, cache: LatentCache, ids: Tensor, prompt: int, chunk: int) -> Tensor:
    """States (B, T - prompt, D) after the prompt, which the model itself reads, ``chunk`` tokens at a time."""
    decoder.model(ids[:, :prompt], cache.advance(prompt))
    parts = ids[:, prompt:].split(chunk, dim=1)
    return torch.cat([decoder(part, cache.advance(part.shape[1])) for part in parts], dim=1)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@settings(max_examples=30, derandomize=True)
@given(
    config=CONFIGS,
    padding=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    prompt=st.integers(1, 4),
    static=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_decoding_is_one_forward_pass(
    dtype: torch.dtype,
    tolerance: float,
    chunk: int,
    config: ModelConfig,
    padding: list[int],
    prompt: int,
    static: bool,
    seed: int,
) -> None:
    """Catches a scale, bias, norm, quarter turn or head that the products forget, and padding that counts."""
    model = random_model(config, seed).to(dtype)
    prompt += max(padding)
    ids = token_ids(config, len(padding), prompt + 7, seed=seed)
    cache = new_cache(model, len(ids), prompt + 8, padding=torch.tensor(padding), static=static)
    decoder = Decoder(model, dtype)
    got = decoded(decoder, cache, ids, prompt, chunk)
    for row, left in enumerate(padding):
        expected = model(ids[row : row + 1, left:]).hidden[:, prompt - left :].detach()
        close(got[row : row + 1], expected, f"row {row}", tolerance)
        close(decoder.logits(got[row : row + 1]), model.logits(expected).detach(), f"logits {row}", tolerance)


@pytest.mark.parametrize("chunk", [1, 3])
@settings(max_examples=15, derandomize=True)
@given(
    config=st.one_of(small_configs(num_nextn_predict_layers=2), small_configs(num_nextn_predict_layers=1)),
    prompt=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_prediction_blocks_decode_as_they_read(chunk: int, config: ModelConfig, prompt: int, seed: int) -> None:
    """Catches halves of the projection exchanged, another block's weights or norms, and angles of another cache."""
    model = random_model(config, seed).double()
    decoder, ids = Decoder(model, torch.float64), token_ids(config, 2, prompt + 10, seed=seed)
    with torch.no_grad():
        out = model(ids, look_ahead=True)
        states = (out.hidden, *out.ahead)
        for k in range(1, len(states)):
            cache = new_cache(model, 2, prompt + 10, layers=1)
            state, read = states[k - 1][:, : ids.shape[1] - k], ids[:, k:]
            model.predict_ahead(k, state[:, :prompt], read[:, :prompt], cache.advance(prompt))
            parts = zip(state[:, prompt:].split(chunk, dim=1), read[:, prompt:].split(chunk, dim=1), strict=True)
            got = [decoder.predict_ahead(k, s, r, cache.advance(r.shape[1])) for s, r in parts]
            close(torch.cat(got, dim=1), states[k][:, prompt:], f"block {k}", 1e-10)


@pytest.mark.parametrize("values", [{}, {"q_lora_rank": 24}, DENSE, FULL])
def test_a_decoder_remembers_what_the_model_remembers(values: dict[str, Any]) -> None:
    """Catches latents before their norm and keys before their rotation: cache entries are not the decoder's own."""
    model = random_model(tiny_config(**values), 0).double()
    ids = token_ids(model.config, 2, 9)
    ours, theirs = new_cache(model, 2, 9), new_cache(model, 2, 9)
    decoded(Decoder(model, torch.float64), ours, ids, 4, 2)
    model(ids, theirs.advance(9))
    close(ours.entries, theirs.entries.detach(), "entries", 1e-10)


@pytest.mark.parametrize("values", [DENSE, FULL | DENSE, FULL])
@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_stays_near(values: dict[str, Any], autocast: bool) -> None:
    """Catches an fp32 tensor in a bf16 product; and products of weights made in bf16, which rounds them twice."""
    model = random_model(tiny_config(**values, tie_word_embeddings=False), 0)
    ids = token_ids(model.config, 2, 12)
    with torch.no_grad():
        expected = model(ids).hidden[:, 4:]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            decoder = Decoder(model, torch.bfloat16)
            cache = new_cache(model, 2, 12, dtype=torch.bfloat16)
            got = decoded(decoder, cache, ids, 4, 1)
            logits = decoder.logits(got)
    assert got.dtype == logits.dtype == torch.bfloat16
    error = ((got - expected).norm(dim=-1) / expected.norm(dim=-1)).flatten()
    assert error.median() < 0.03  # a rounded router may take another expert for a token
    plain = Decoder(model, torch.bfloat16)
    for ours, theirs in zip(decoder.layers, plain.layers, strict=True):
        assert torch.equal(ours.attention.output.weight, theirs.attention.output.weight)


def test_gradients_and_inference_mode_do_not_matter() -> None:
    """A decoder may be made where gradients are recorded: it must not keep the graph of its products."""
    model = random_model(tiny_config(**FULL), 0)
    attention = Decoder(model, torch.float32).layers[0].attention
    for matrix in (attention.inputs, attention.output):
        assert not matrix.weight.requires_grad and matrix.weight.grad_fn is None


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("padding", [None, [2, 0]])
@pytest.mark.parametrize("values", [{}, FULL | {"num_layers": 2}])
@pytest.mark.slow
def test_a_compiled_step_is_compiled_once(values: dict[str, Any], padding: list[int] | None, backend: str) -> None:
    """Catches steps that break the graph or wait for the host, and shapes or numbers that change with the position.

    The first tokens fill the ring, the others go around.
    """
    model = random_model(tiny_config(**values, tie_word_embeddings=False), 0).double()
    ids = token_ids(model.config, 2, 16)
    left = None if padding is None else torch.tensor(padding)
    decoder = Decoder(model, torch.float64)
    torch._dynamo.reset()
    counters.clear()
    step = torch.compile(decoder.__call__, fullgraph=True, dynamic=False, backend=backend)
    with torch.inference_mode():
        caches = [new_cache(model, 2, 9, padding=left, static=static) for static in (True, False)]
        for cache in caches:
            model(ids[:, :5], cache.advance(5))
        for i in range(5, 16):
            got, expected = (
                f(ids[:, i : i + 1], cache.advance(1)) for f, cache in zip((step, decoder), caches, strict=True)
            )
            close(got, expected, f"token {i}", 1e-12)
            assert counters["stats"]["unique_graphs"] == 1, i
    assert not counters["graph_break"] and not counters["recompiles"]


def test_one_token_may_begin() -> None:
    """A prompt of one token needs no other way of reading it."""
    model = random_model(tiny_config(**FULL), 0).double()
    ids = token_ids(model.config, 2, 6)
    cache, decoder = new_cache(model, 2, 6), Decoder(model, torch.float64)
    with torch.no_grad():
        got = torch.cat([decoder(part, cache.advance(1)) for part in ids.split(1, dim=1)], dim=1)
        close(got, model(ids).hidden, "states", 1e-10)


@settings(max_examples=40, derandomize=True)
@given(
    tokens=st.integers(1, 9),
    experts=st.integers(1, 8),
    k=st.integers(1, 4),
    spread=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_few_tokens_through_experts(tokens: int, experts: int, k: int, spread: bool, seed: int) -> None:
    """Catches tokens that are not put back in their places, weights of another token, and a last expert left out."""
    k = min(k, experts)
    generator = torch.Generator().manual_seed(seed)
    x, gate_up, down = (
        torch.randn(shape, dtype=torch.float64, generator=generator)
        for shape in ((tokens, 16), (experts, 48, 16), (experts, 16, 24))
    )
    routing = random_routing(tokens, experts, k, seed, None if spread else list(range(experts - k, experts)))
    before = [t.clone() for t in (x, gate_up, down, routing.weights)]
    got = apply_to_few(x, routing.experts, routing.weights, gate_up, down)
    close(got, apply_experts(x, routing, gate_up, down), "apply_experts", 1e-12)
    close(got, naive_experts(x, routing, gate_up, down), "a loop", 1e-12)
    assert all(map(torch.equal, before, (x, gate_up, down, routing.weights)))


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("inputs", [8, 16, 40, 96])
def test_a_matrix_of_8_bits(inputs: int, rows: int) -> None:
    """Catches numbers of inputs of which torch's kernel reads past the end of a row, and a zero row's scale."""
    generator = torch.Generator().manual_seed(rows)
    weight, x = (torch.randn(n, inputs, generator=generator) for n in (24, rows))
    weight[3] = 0
    weight[4] *= 1000
    rough = Int8(weight)
    kept = rough.weight[:, :inputs].float() * rough.scale.float().unsqueeze(1)
    assert ((kept - weight).abs() <= 0.51 * weight.abs().amax(dim=1, keepdim=True) / 126).all()
    exact = x.bfloat16().float() @ kept.t()
    size = exact.abs().amax(dim=0)
    assert (rough(x).float() - exact).abs().le(0.02 * size + 1e-6).all()
    total = torch.ones(rows, 24)
    rough.add_to(total, x, 0.5)
    assert (total - 1 - 0.5 * exact).abs().le(0.02 * size + 1e-6).all()


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize(
    "values", [{}, FULL | {"num_layers": 3}, DENSE, {"n_shared_experts": 2, "moe_intermediate_size": 24}]
)
def test_8_bits_stay_near(values: dict[str, Any], chunk: int) -> None:
    """Catches a matrix of another expert, and a weight of a norm or a bias left out."""
    model = random_model(tiny_config(**values, tie_word_embeddings=False), 0)
    ids = token_ids(model.config, 2, 12)
    with torch.no_grad():
        expected = model(ids).hidden[:, 4:]
        decoder = Decoder(model, torch.float32, int8=True)
        got = decoded(decoder, new_cache(model, 2, 12), ids, 4, chunk)
        assert decoder.logits(got).shape == (2, 8, model.config.vocab_size)
    error = ((got - expected).norm(dim=-1) / expected.norm(dim=-1)).flatten()
    assert error.median() < 0.05  # a rounded input may take another expert for a token
