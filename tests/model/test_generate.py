"""Continuing many prompts from a cache against reading everything again for each token, one prompt at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s15erav3.model.generate import Generated, compute_dtype, generate
from s15erav3.model.kv_cache import Step
from s15erav3.model.sampling import Sampling
from s15erav3.model.transformer import Transformer
from tests.model.reference import DENSE, arithmetic, hf_twin, random_model, tiny_config, token_ids

GREEDY, WILD = Sampling(0.0), Sampling(1.5, 0, 1.0)
FULL = {"rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 16}, "q_lora_rank": 24}


def model_of(seed: int = 0, **values: Any) -> Transformer:
    # With a tied head a random model repeats its last token.
    return random_model(tiny_config(**{"num_layers": 2, "tie_word_embeddings": False, **values}), seed).double()


def some_prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 61, (length,), generator=generator).tolist() for length in lengths]


def written(
    model: Transformer, prompts: list[list[int]], n: int = 10, sampling: Sampling = GREEDY, **more: Any
) -> tuple[list[list[int]], Generated]:
    """Tokens of each sequence, and what it took."""
    texts: list[list[int]] = [[] for _ in range(len(prompts) * more.get("samples", 1))]

    def emit(sequence: int, token: int) -> bool:
        texts[sequence].append(token)
        return len(texts[sequence]) <= n  # one too many would be seen; without end they would not

    settings_ = {"seed": 0, "context": 64, **more}
    return texts, generate(model, prompts, emit, max_new_tokens=n, sampling=sampling, **settings_)


@torch.no_grad()
def last_logits(model: Transformer, ids: list[int], context: int) -> Tensor:
    """Of the token after all of them, each of which sees ``context``, itself included; nothing is remembered."""
    length, config = len(ids), model.config
    distance = torch.arange(length)[:, None] - torch.arange(length)
    mask = ((distance >= 0) & (distance < context))[None, None]
    width = config.kv_lora_rank + config.qk_rope_head_dim
    unread = torch.zeros(config.num_layers, 1, length, width, dtype=torch.float64)
    step = Step(torch.arange(length), unread, torch.arange(length), mask, True)
    return model.logits(model(torch.tensor([ids]), step).hidden[:, -1])


def read_again(
    model: Transformer, prompt: list[int], n: int = 10, sampling: Sampling = GREEDY, context: int = 64, seed: int = 0
) -> list[int]:
    ids, generator = prompt[-context:], torch.Generator().manual_seed(seed)
    start = len(ids)
    for _ in range(n):
        seen = torch.zeros(1, 61, dtype=torch.bool)
        seen[0, ids] = True
        ids = [*ids, int(sampling.draw(last_logits(model, ids, context), seen, [generator]))]
    return ids[start:]


@settings(max_examples=15, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    full=st.booleans(),
    n=st.integers(1, 8),
    seed=st.integers(0, 10_000),
)
def test_greedy_is_a_loop_of_argmax(lengths: list[int], full: bool, n: int, seed: int) -> None:
    """Catches the state of another position or sequence, padding that is seen or counted, and a cache too short."""
    model, prompts = model_of(seed, **(FULL if full else {})), some_prompts(*lengths, seed=seed)
    texts, _ = written(model, prompts, n)
    assert texts == [read_again(model, prompt, n) for prompt in prompts]


def test_random_models_write_more_than_one_token() -> None:
    """Else most tests here would show nothing."""
    assert all(len(set(text)) > 4 for text in written(model_of(), some_prompts(3, 5))[0])


@settings(max_examples=15, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    context=st.integers(1, 9),
    seed=st.integers(0, 10_000),
)
def test_a_token_sees_the_context_and_no_more(lengths: list[int], context: int, seed: int) -> None:
    """Catches a window off by one, a ring that loses the wrong token, and the first tokens of a long prompt kept."""
    model, prompts = model_of(seed), some_prompts(*lengths, seed=seed)
    texts, _ = written(model, prompts, 12, context=context)
    assert texts == [read_again(model, prompt, 12, context=context) for prompt in prompts]


def test_of_a_long_prompt_the_last_tokens_are_read() -> None:
    """Catches the first tokens kept, positions that go on counting, and a penalty for what was not read."""
    model, (prompt,) = model_of(), some_prompts(20)
    shapes: list[Any] = []
    model.register_forward_hook(lambda _m, args, _o: shapes.append(args[0].shape))
    for sampling in (GREEDY, Sampling(0.0, repetition_penalty=3.0)):
        got, _ = written(model, [prompt], 6, sampling, context=8)
        assert shapes[-1] == (1, 8)
        assert got == written(model, [prompt[-8:]], 6, sampling, context=8)[0]
        assert got != written(model, [prompt], 6, sampling, context=20)[0]


@pytest.mark.parametrize("context", [64, 6])
@pytest.mark.parametrize(
    "sampling",
    [WILD, Sampling(1.2, 9, 0.9, 0.05), Sampling(0.0, repetition_penalty=2.0), Sampling(1.5, repetition_penalty=1.7)],
)
def test_sample_s_of_a_prompt_is_drawn_with_its_own_seed(sampling: Sampling, context: int) -> None:
    """Catches sequences in another order, generators that are shared, and a penalty that forgets a token or a row."""
    model, prompts = model_of(), some_prompts(5, 2, 9)
    texts, _ = written(model, prompts, 8, sampling, seed=7, samples=3, context=context)
    for sequence, text in enumerate(texts):
        prompt, seed = prompts[sequence // 3], 7 + sequence % 3
        assert text == read_again(model, prompt, 8, sampling, context=context, seed=seed), sequence


def test_samples_do_not_depend_on_neighbours_and_differ() -> None:
    """Whoever adds a prompt keeps the texts of the others; two samples of one prompt are two texts."""
    model, (first, second, third) = model_of(), some_prompts(5, 2, 9)
    few, _ = written(model, [second], sampling=WILD, samples=2)
    many, _ = written(model, [first, second, third], sampling=WILD, samples=4)
    assert few == many[4:6]
    assert len({tuple(text) for text in many}) == 12


def test_a_seed_gives_the_same_text_and_another_seed_another() -> None:
    """Catches randomness from torch's global generator."""
    model = model_of()
    torch.manual_seed(1)
    first, _ = written(model, [[1, 2]], sampling=WILD, seed=7)
    torch.manual_seed(2)
    assert written(model, [[1, 2]], sampling=WILD, seed=7)[0] == first
    assert written(model, [[1, 2]], sampling=WILD, seed=8)[0] != first


def test_nothing_global_is_touched() -> None:
    """Samples drawn during training must not change what the training does next."""
    model = model_of().train()
    torch.manual_seed(5)
    before, modes = torch.get_rng_state(), []
    model.register_forward_hook(lambda m, _a, _o: modes.append((m.training, torch.is_grad_enabled())))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert written(model, [[1, 2], [3]], 3, WILD, samples=2)
    assert modes == [(False, False)]  # the prompts are read once
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model(torch.tensor([[1, 2]])).hidden.sum().backward()  # catches tensors of inference mode left in the model


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_restored_whatever_happens(training: bool) -> None:
    """Catches ``model.train()`` whatever the mode was, and a mode that is only restored after the last token."""
    model = model_of().train(training)
    written(model, [[1, 2]], 2)
    assert model.training == training

    def fail(_sequence: int, _token: int) -> bool:
        raise RuntimeError("the reader has gone")

    with pytest.raises(RuntimeError, match="gone"):
        generate(model, [[1]], fail, max_new_tokens=3, sampling=GREEDY, seed=0, context=8)
    assert model.training == training and torch.is_grad_enabled()
    with pytest.raises(IndexError):
        written(model, [[1000]])
    assert model.training == training and torch.is_grad_enabled()


def test_the_stop_token_ends_its_sequence_and_is_not_told() -> None:
    """Catches an end-of-text mark that is printed, and one that ends its neighbours."""
    model, prompts = model_of(), some_prompts(5, 2, 9)
    texts, _ = written(model, prompts)
    stop = texts[0][4]
    expected = [text[: text.index(stop)] if stop in text else text for text in texts]
    assert expected[0] == texts[0][: texts[0].index(stop)] and expected[1:] != [[], []]
    got, took = written(model, prompts, stop=stop)
    assert got == expected
    assert took.tokens == sum(map(len, got))


def test_the_caller_ends_a_sequence_and_that_one_only() -> None:
    """Catches tokens told after that, and neighbours that end with it."""
    model, prompts = model_of(), some_prompts(5, 2, 9)
    expected, told = written(model, prompts)[0], [list[int](), list[int](), list[int]()]
    ends = [3, 99, 1]

    def emit(sequence: int, token: int) -> bool:
        told[sequence].append(token)
        return len(told[sequence]) < ends[sequence]

    took = generate(model, prompts, emit, max_new_tokens=10, sampling=GREEDY, seed=0, context=64)
    assert told == [expected[0][:3], expected[1], expected[2][:1]]
    assert (took.tokens, took.steps) == (14, 9)
    told, ends = [[], [], []], [3, 4, 1]
    took = generate(model, prompts, emit, max_new_tokens=10, sampling=GREEDY, seed=0, context=64)
    assert (took.tokens, took.steps) == (8, 3)  # nothing is read for nobody


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_exactly_so_many_tokens_are_told(n: int) -> None:
    """Catches one token too many, and 0 taken for no limit."""
    texts, took = written(model_of(), some_prompts(5, 2), n, WILD, samples=2)
    assert [len(text) for text in texts] == [n] * 4
    assert (took.tokens, took.steps) == (4 * n, max(0, n - 1))
    assert (took.drafted, took.accepted) == (0, 0)
    assert took.prompt_seconds > 0 and took.seconds > 0


@pytest.mark.parametrize("values", [{}, DENSE, {"num_layers": 3, "num_heads": 4, "num_nextn_predict_layers": 1}])
def test_memory_of_a_token_is_reported(values: dict[str, Any]) -> None:
    """Catches a figure for all sequences or one layer, and a cache in fp32 where the model computes in bf16."""
    model = model_of(**values).float()
    numbers = model.config.num_layers * (20 + 8)
    assert written(model, [[1], [2, 3]], 2, samples=2)[1].cache_bytes_per_token == 4 * numbers
    assert compute_dtype(model) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(model) == torch.bfloat16
        texts, took = written(model, [[1], [2, 3]], 5)
        assert took.cache_bytes_per_token == 2 * numbers
    assert [len(text) for text in texts] == [5, 5]


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_an_empty_sequence_is_refused(prompts: list[list[int]]) -> None:
    """Catches an index error from an empty tensor."""
    with pytest.raises(ValueError, match="at least one token"):
        written(model_of(), prompts)


@pytest.mark.parametrize("context", [64, 8])
def test_a_compiled_step_writes_the_same(context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a step that cannot be compiled as a whole, or that sees slots not yet filled; without Inductor, which
    takes a minute."""
    compiler, asked = torch.compile, []

    def compiled(function: Any, **settings_: Any) -> Any:
        asked.append(settings_)
        return compiler(function, backend="eager", **settings_)

    monkeypatch.setattr(torch, "compile", compiled)
    model, prompts = model_of(), some_prompts(5, 2, 12)
    expected, _ = written(model, prompts, sampling=WILD, samples=2, context=context)
    assert not asked
    assert written(model, prompts, sampling=WILD, samples=2, context=context, compiled=True)[0] == expected
    assert [settings_["fullgraph"] for settings_ in asked] == [True]


@pytest.mark.parametrize("values", [{}, FULL | {"num_layers": 3, "attention_bias": True}, DENSE])
def test_transformers_writes_the_same(values: dict[str, Any]) -> None:
    """An independent model, cache and loop: greedily, alone and in a batch with padding at the left."""
    model, prompts = model_of(3, **values), some_prompts(5, 2, 9)
    texts, _ = written(model, prompts, 12)
    ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, 9 - len(prompt) :], mask[row, 9 - len(prompt) :] = torch.tensor(prompt), 1
    settings_ = {"max_new_tokens": 12, "do_sample": False, "use_cache": True, "pad_token_id": 0, "eos_token_id": None}
    with arithmetic(torch.float64), torch.no_grad():
        twin: Any = hf_twin(model).eval()
        assert twin.generate(ids, attention_mask=mask, **settings_)[:, 9:].tolist() == texts
        for prompt, text in zip(prompts, texts, strict=True):
            alone = torch.tensor([prompt])
            out = twin.generate(alone, attention_mask=torch.ones_like(alone), **settings_)
            assert out[0, len(prompt) :].tolist() == text
    assert len({tuple(text) for text in texts}) == 3


def test_a_batch_of_many_is_many_of_one() -> None:
    """In fp32, as models are used: rounding differs with the batch, texts hardly ever."""
    model = model_of(5).float()
    prompts = [row[: 3 + i].tolist() for i, row in enumerate(token_ids(model.config, 6, 9))]
    together, _ = written(model, prompts, 8)
    assert together == [written(model, [prompt], 8)[0][0] for prompt in prompts]
