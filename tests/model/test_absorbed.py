"""Decoding from latents against forward passes without a cache, and against DeepSeek's equations head by head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s15erav3.model import ModelConfig, Transformer
from s15erav3.model.attention import LatentAttention, LayerCache
from s15erav3.model.kv_cache import LatentCache
from s15erav3.model.moe import MoE
from s15erav3.model.rope import rope_angles
from tests.model.reference import DENSE, close, random_model, small_configs, tiny_config, token_ids

DOUBLE = {"rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 16}, "q_lora_rank": 24}
"""Settings under which a scale or a norm that is left out shows."""


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One position's pairs (x0, x1), (x2, x3), ... as complex numbers, turned."""
    turned = torch.view_as_complex(x.reshape(-1, 2)) * torch.complex(cos, sin)
    return torch.view_as_real(turned).flatten()


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean() + eps).sqrt() * weight


def naive_attention(net: LatentAttention, config: ModelConfig, x: Tensor, window: int) -> Tensor:
    """Equations 1 to 11 of arXiv 2412.19437 for one sequence (T, D), one position and one head at a time."""
    heads, nope, rope, v = config.num_heads, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    cos, sin = (a.double() for a in rope_angles(torch.arange(len(x)), rope, config.rope_theta, config.rope_scaling))
    scale = (nope + rope) ** -0.5 * (config.rope_scaling.softmax_factor if config.rope_scaling else 1.0)
    latents, queries, rotary = [], [], []
    for t, h in enumerate(x):
        down = net.kv_a_proj_with_mqa(h)
        latents.append(normed(down[: config.kv_lora_rank], net.kv_a_layernorm.weight, 1e-6))  # (1)
        rotary.append(rotated(down[config.kv_lora_rank :], cos[t], sin[t]))  # (3)
        if config.q_lora_rank is None:
            q = net.q_proj.weight @ h
        else:
            q = net.q_b_proj.weight @ normed(net.q_a_proj(h), net.q_a_layernorm.weight, 1e-6)  # (6), (7)
        queries.append([(part[:nope], rotated(part[nope:], cos[t], sin[t])) for part in q.view(heads, -1)])  # (8), (9)
    out = []
    for t in range(len(x)):
        each = []
        for i in range(heads):
            up = net.kv_b_proj.weight[i * (nope + v) : (i + 1) * (nope + v)]
            seen = range(max(0, t - window + 1), t + 1)
            logits = [(queries[t][i][0] @ (up[:nope] @ latents[j]) + queries[t][i][1] @ rotary[j]) for j in seen]  # (2)
            weights = (torch.stack(logits) * scale).softmax(dim=0)
            each.append(sum(w * (up[nope:] @ latents[j]) for w, j in zip(weights, seen, strict=True)))  # (5), (10)
        out.append(net.o_proj(torch.cat(each)))  # (11)
    return torch.stack(out)


def naive_logits(model: Transformer, ids: Tensor, window: int) -> Tensor:
    """The whole model with attention that sees the last ``window`` tokens, and nothing remembered: (B, T, V)."""
    x = model.embed_tokens(ids)
    for layer in model.layers:
        y = layer.input_layernorm(x)
        x = x + torch.stack([naive_attention(layer.self_attn, model.config, row, window) for row in y])
        mlp = layer.mlp(layer.post_attention_layernorm(x))
        x = x + (mlp[0] if isinstance(layer.mlp, MoE) else mlp)
    return model.logits(model.norm(x))


def new_cache(model: Transformer, batch: int, capacity: int, **settings_: Any) -> LatentCache:
    weight = model.embed_tokens.weight
    return LatentCache(model.config, batch, capacity, device=weight.device, dtype=weight.dtype, **settings_)


@torch.no_grad()
def fed(model: Transformer, cache: LatentCache, ids: Tensor, chunks: list[int]) -> Tensor:
    """Logits (B, T, V) of ids read a chunk at a time; the last chunk is repeated as long as tokens are left."""
    out, at = [], 0
    while at < ids.shape[1]:
        part = ids[:, at : at + chunks[min(len(out), len(chunks) - 1)]]
        out.append(model.logits(model(part, cache.advance(part.shape[1])).hidden))
        at += part.shape[1]
    return torch.cat(out, dim=1)


CHUNKS = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@settings(max_examples=30, derandomize=True)
@given(
    config=small_configs(),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 16)),
    chunks=CHUNKS,
    room=st.integers(0, 5),
    static=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_decoding_is_one_forward_pass(
    dtype: torch.dtype,
    tolerance: float,
    config: ModelConfig,
    shape: tuple[int, int],
    chunks: list[int],
    room: int,
    static: bool,
    seed: int,
) -> None:
    """Catches a scale, norm or rotation that only one of the two ways has, and tokens that see each other wrongly."""
    model = random_model(config, seed).to(dtype)
    ids = token_ids(config, *shape, seed=seed)
    cache = new_cache(model, shape[0], shape[1] + room, static=static)
    close(fed(model, cache, ids, chunks), model.logits(model(ids).hidden).detach(), "logits", tolerance)
    assert cache.length == shape[1]


@pytest.mark.parametrize("values", [{}, DOUBLE, DOUBLE | {"attention_bias": True, "num_heads": 4}])
@pytest.mark.parametrize("window", [4, 99])
def test_both_ways_of_attending_are_the_equations(values: dict[str, Any], window: int) -> None:
    """Parity of the two with each other would pass for two that are wrong alike."""
    model = random_model(tiny_config(**values), 0).double()
    config, attention = model.config, model.layers[1].self_attn
    x = torch.randn(2, 9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([naive_attention(attention, config, row, window) for row in x])
    angles = rope_angles(torch.arange(9), 8, config.rope_theta, config.rope_scaling)
    distance = torch.arange(9)[:, None] - torch.arange(9)
    mask = ((distance >= 0) & (distance < window))[None, None]
    if window > 9:
        close(attention(x, *angles), expected, "expanded", 1e-12)
    for prefill in (True, False):
        cache = LayerCache(torch.zeros(2, 9, 28, dtype=torch.float64), torch.arange(9), mask, prefill)
        close(attention(x, *angles, cache), expected, f"prefill={prefill}", 1e-12)


@settings(max_examples=25, derandomize=True)
@given(
    padding=st.lists(st.integers(0, 6), min_size=2, max_size=3).filter(any),
    prompt=st.integers(1, 4),
    chunks=CHUNKS,
    static=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_padded_sequences_are_what_they_are_alone(
    padding: list[int], prompt: int, chunks: list[int], static: bool, seed: int
) -> None:
    """Catches padding that is looked at or counted in positions, in the prompt or later, and rows of NaN."""
    model = random_model(tiny_config(**DOUBLE), seed).double()
    length = max(padding) + prompt + 6
    ids = token_ids(model.config, len(padding), length, seed=seed)
    cache = new_cache(model, len(padding), length + 2, padding=torch.tensor(padding), static=static)
    together = fed(model, cache, ids, [max(padding) + prompt, *chunks])
    assert together.isfinite().all()
    for row, left in enumerate(padding):
        alone = model.logits(model(ids[row : row + 1, left:]).hidden)
        close(together[row, left:], alone[0].detach(), f"row {row}", 1e-10)


@settings(max_examples=25, derandomize=True)
@given(
    window=st.integers(1, 9),
    slack=st.integers(0, 4),
    length=st.integers(8, 15),
    begin=st.integers(1, 9),
    chunks=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    static=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_a_window_slides_over_a_ring_of_slots(
    window: int, slack: int, length: int, begin: int, chunks: list[int], static: bool, seed: int
) -> None:
    """Catches a window or a ring that is off by one: in the prompt, in a chunk, at the seam, and after it."""
    model = random_model(tiny_config(**DOUBLE, num_layers=2), seed).double()
    ids = token_ids(model.config, 1, length, seed=seed)
    cache = new_cache(model, 1, window + slack, window=window, static=static)
    # Tokens that come together must not overwrite what the first of them still sees.
    fitting = [min(begin, window + slack)] + [min(chunk, slack + 1) for chunk in chunks]
    close(fed(model, cache, ids, fitting), naive_logits(model, ids, window).detach(), "logits", 1e-10)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("capacity", [1, 5])
def test_a_full_ring_forgets_the_oldest_token_first(capacity: int, static: bool) -> None:
    """Three times around, one token a time, without any slack: the seam passes every slot."""
    model = random_model(tiny_config(**DOUBLE, num_layers=2), 0).double()
    ids = token_ids(model.config, 2, 15)
    cache = new_cache(model, 2, capacity, static=static)
    close(fed(model, cache, ids, [1]), naive_logits(model, ids, capacity).detach(), "logits", 1e-10)
    assert sorted(cache.holds.tolist()) == list(range(15 - capacity, 15))


def test_a_padded_sequence_longer_than_the_ring() -> None:
    """Padding leaves the window after a while, positions stay shifted by it."""
    model = random_model(tiny_config(**DOUBLE, num_layers=2), 0).double()
    ids, padding = token_ids(model.config, 2, 16), [3, 0]
    cache = new_cache(model, 2, 6, padding=torch.tensor(padding))
    together = fed(model, cache, ids, [5, 1])
    for row, left in enumerate(padding):
        alone = naive_logits(model, ids[row : row + 1, left:], 6).detach()
        close(together[row, left:], alone[0], f"row {row}", 1e-10)


@settings(max_examples=30, derandomize=True)
@given(
    before=st.integers(2, 14),
    wrong=st.integers(1, 3),
    kept=st.integers(0, 2),
    ring=st.booleans(),
    together=st.booleans(),
    static=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_going_back_forgets_wrong_drafts(
    before: int, wrong: int, kept: int, ring: bool, together: bool, static: bool, seed: int
) -> None:
    """Catches drafts that were refused and are looked at all the same, before and after the ring is full."""
    model = random_model(tiny_config(**DOUBLE, num_layers=2), seed).double()
    window = 5 if ring else 32
    ids, drafts = token_ids(model.config, 2, before + 6, seed=seed), token_ids(model.config, 2, 3, seed=seed + 1)
    cache = new_cache(model, 2, window + 3, window=window, static=static)
    first = fed(model, cache, ids[:, :before], [min(before, 3), 1])
    fed(model, cache, drafts[:, :wrong], [wrong if together else 1])
    cache.length -= wrong
    second = fed(model, cache, ids[:, before:], [kept + 1, 1])
    expected = naive_logits(model, ids, window).detach()
    close(torch.cat((first, second), dim=1), expected, "logits", 1e-10)


@pytest.mark.parametrize("back", [1, 2, 4])
def test_a_draft_is_never_seen_again_even_without_slack(back: int) -> None:
    """In a full ring a draft has cost an old token: that one is gone, but what comes must not see the draft."""
    model = random_model(tiny_config(num_layers=2), 0).double()
    ids = token_ids(model.config, 1, 12)
    seen = []
    for draft in (7, 8):
        cache = new_cache(model, 1, 5)
        fed(model, cache, ids[:, :8], [1])
        fed(model, cache, torch.full((1, back), draft), [1])
        cache.length -= back
        seen.append(fed(model, cache, ids[:, 8:], [1]))
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("padding", [None, [2, 0]])
@pytest.mark.parametrize("static", [False, True])
def test_repeated_sequences_go_on_independently(padding: list[int] | None, static: bool) -> None:
    """Catches copies in another order than their continuations, copies that share cache, and padding left behind."""
    model = random_model(tiny_config(**DOUBLE), 0).double()
    prompts, more = token_ids(model.config, 2, 5), token_ids(model.config, 6, 4, seed=1)
    cache = new_cache(model, 2, 12, padding=None if padding is None else torch.tensor(padding), static=static)
    fed(model, cache, prompts, [5])
    cache.repeat(3)
    later = fed(model, cache, more, [2, 1])
    for row in range(6):
        left = padding[row // 3] if padding else 0
        whole = torch.cat((prompts[row // 3, left:], more[row]))[None]
        close(later[row], model.logits(model(whole).hidden)[0, -4:].detach(), f"row {row}", 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("values", [{}, DENSE, {"num_heads": 4, "num_nextn_predict_layers": 2}])
def test_a_token_takes_a_latent_and_a_rotary_key_per_layer(dtype: torch.dtype, values: dict[str, int]) -> None:
    """What MLA is for: heads, or keys and values of theirs, must not show in the cache."""
    config = tiny_config(**values)
    device = torch.device("cpu")
    padding = torch.tensor([1, 0, 0])
    cache = LatentCache(config, 3, 11, device=device, dtype=dtype, padding=padding)
    assert cache.bytes_per_token == 3 * (20 + 8) * dtype.itemsize
    tensors = {name: value for name, value in vars(cache).items() if isinstance(value, Tensor)}
    assert tensors.keys() == {"entries", "holds", "padding"}
    assert cache.entries.nbytes == cache.entries.untyped_storage().nbytes() == 3 * 11 * cache.bytes_per_token
    assert cache.holds.shape == (11,) and cache.padding is not None and cache.padding.shape == (3,)
    assert LatentCache(config, 1, 4, device=device, dtype=dtype, layers=1).bytes_per_token == 28 * dtype.itemsize


def test_a_cache_in_bf16_serves_a_model_in_fp32() -> None:
    """Under autocast latents are remembered in bf16: rounded, and nothing worse."""
    model = random_model(tiny_config(**DENSE), 0)
    ids = token_ids(model.config, 2, 12)
    cache = LatentCache(model.config, 2, 12, device=ids.device, dtype=torch.bfloat16)
    close(fed(model, cache, ids, [4, 1]), model.logits(model(ids).hidden).detach(), "logits", 0.05)


def test_more_tokens_than_slots_are_refused() -> None:
    """They would overwrite each other before they are seen."""
    cache = new_cache(random_model(tiny_config(), 0), 1, 4)
    with pytest.raises(ValueError, match="5 tokens at once do not fit into 4 slots"):
        cache.advance(5)
    assert cache.length == 0
