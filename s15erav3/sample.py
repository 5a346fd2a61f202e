"""``s15erav3 sample``: what a checkpoint writes after a prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig

from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import by_place
from s15erav3.cli.settings import LARGEST
from s15erav3.data.detokenizer import TextStream
from s15erav3.errors import UserError, check_flag, check_number
from s15erav3.loading import Trained, restore
from s15erav3.model import ModelConfig
from s15erav3.model.generate import Emit, Generated, generate
from s15erav3.model.sampling import Sampling
from s15erav3.model.speculate import generate_speculatively
from s15erav3.terminal import say


class Request(NamedTuple):
    """What is asked for, once for all sequences."""

    prompts: list[str]
    sampling: Sampling
    max_new_tokens: int
    samples: int
    stop: list[str]
    seed: int
    speculative: bool
    compiled: bool


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 sample --help``."""
    hydra_setup.run("sample", sample, by_place("sample", arguments, "checkpoint"))
    return 0


def sample(cfg: DictConfig) -> list[str]:
    """Continue every prompt; texts go to standard output, figures to standard error.

    A single text appears as it is written, several one after another when all are done.

    Returns:
        the continuations, without the prompts.

    Raises:
        UserError: the checkpoint or a setting is unusable.
    """
    request = asked(cfg)
    trained = restore(cfg)
    bad = next((name for name, value in trained.net.state_dict().items() if not value.isfinite().all()), None)
    if bad is not None:
        raise UserError(
            f"{trained.saved.file} cannot generate: its weight {bad} is not finite; sample from a checkpoint of before "
            "training diverged."
        )
    if not trained.net.config.causal:
        raise UserError(
            f"{trained.saved.file} cannot generate: its experts choose among tokens that are still to come "
            "(balancing=expert_choice is a control); sample from a model that was balanced otherwise."
        )
    if request.speculative and not trained.net.config.num_nextn_predict_layers:
        raise UserError(
            f"speculative=true needs multi-token-prediction blocks, and {trained.saved.file} has none; train with "
            "model.num_nextn_predict_layers=1, or leave speculative out."
        )
    if request.speculative:
        return speculate(trained, request)
    sequences = [prompt for prompt in request.prompts for _ in range(request.samples)]
    alone = len(sequences) == 1
    texts, took = write(trained, request, show if alone else None)
    for i, (prompt, text) in enumerate(zip(sequences, texts, strict=True)):
        show(f"{'' if i == 0 else chr(10)}{'' if alone else prompt + text}\n")
    report(trained.net.config, took)
    return texts


def asked(cfg: DictConfig) -> Request:
    """The settings, checked.

    Raises:
        UserError: one of them is unusable.
    """
    check_number("max_new_tokens", cfg.max_new_tokens, at_least=1, whole=True)
    check_number("samples", cfg.samples, at_least=1, whole=True)
    check_number("seed", cfg.seed, at_least=0, at_most=LARGEST - cfg.samples, whole=True)
    for name in ("speculative", "compile"):
        check_flag(name, cfg[name])
    try:
        sampling = Sampling(cfg.temperature, cfg.top_k, cfg.top_p, cfg.min_p, cfg.repetition_penalty)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    prompts, stop = _texts(cfg.prompt), _texts(cfg.stop)
    if not prompts:
        raise UserError("prompt=[] holds no text; give one, or an empty one: prompt=''.")
    if cfg.speculative and (sampling.temperature != 0 or sampling.repetition_penalty != 1):
        raise UserError(
            f"speculative=true takes the likeliest tokens, so temperature={sampling.temperature} must be 0 and "
            f"repetition_penalty={sampling.repetition_penalty} must be 1."
        )
    if cfg.speculative and (cfg.compile or cfg.samples > 1):
        raise UserError(
            "speculative=true does not go with compile=true or samples above 1; leave the one or the other out."
        )
    return Request(prompts, sampling, cfg.max_new_tokens, cfg.samples, stop, cfg.seed, cfg.speculative, cfg.compile)


def write(trained: Trained, request: Request, shown: Callable[[str], None] | None) -> tuple[list[str], Generated]:
    """Continue all prompts together; a single text is handed to ``shown`` piece by piece, its prompt first."""
    tokenizer = trained.tokenizer
    streams = [TextStream(tokenizer, request.stop) for _ in request.prompts for _ in range(request.samples)]
    if shown is not None:
        shown(request.prompts[0])
    with trained.autocast():
        took = generate(
            trained.net,
            [[tokenizer.end_of_text, *tokenizer.encode(prompt)] for prompt in request.prompts],
            into(streams, shown),
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            seed=request.seed,
            context=trained.sequence_length,
            stop=tokenizer.end_of_text,
            samples=request.samples,
            compiled=request.compiled,
        )
    return [finish(stream, shown) for stream in streams], took


def speculate(trained: Trained, request: Request) -> list[str]:
    """Continue each prompt by speculation, then once more without it, to tell what it gains."""
    texts, tokenizer = [], trained.tokenizer
    for i, prompt in enumerate(request.prompts):
        show(f"{chr(10) if i else ''}{prompt}")
        stream = TextStream(tokenizer, request.stop)
        with trained.autocast():
            took = generate_speculatively(
                trained.net,
                [tokenizer.end_of_text, *tokenizer.encode(prompt)],
                into([stream], show),
                max_new_tokens=request.max_new_tokens,
                context=trained.sequence_length,
                stop=tokenizer.end_of_text,
            )
        texts.append(finish(stream, show))
        show("\n")
        report(trained.net.config, took)
        (text,), plain = write(trained, request._replace(prompts=[prompt]), None)
        same = "the same text" if text == texts[-1] else "another text, as the two round differently,"
        share, rate = took.accepted / max(1, took.drafted), took.tokens / max(1, took.steps + 1)
        say(
            f"speculation: {took.accepted} of {took.drafted} drafts accepted ({share:.0%}), {rate:.2f} tokens a step; "
            f"plain decoding gave {same} in {plain.seconds:.2f} s: {plain.seconds / took.seconds:.2f} times faster"
        )
    return texts


def into(streams: list[TextStream], shown: Callable[[str], None] | None) -> Emit:
    """Give each token to its stream, and new text to ``shown``."""

    def emit(sequence: int, token: int) -> bool:
        stream = streams[sequence]
        text = stream.add(token)
        if shown is not None:
            shown(text)
        return not stream.ended

    return emit


def finish(stream: TextStream, shown: Callable[[str], None] | None) -> str:
    """The whole text of a stream to which no token follows."""
    rest = stream.close()
    if shown is not None:
        shown(rest)
    return stream.text


def show(text: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def report(config: ModelConfig, took: Generated) -> None:
    """Speed and memory."""
    cached = took.cache_bytes_per_token
    entry = config.kv_lora_rank + config.qk_rope_head_dim
    ordinary = cached // entry * config.num_heads * (config.qk_head_dim + config.v_head_dim)
    say(
        f"{took.tokens:,} tokens in {took.seconds:.2f} s: {took.tokens / max(took.seconds, 1e-9):,.0f} tokens/s after "
        f"{took.prompt_seconds:.2f} s for the prompt; cache {cached:,} bytes per token, where ordinary multi-head "
        f"attention needs {ordinary:,}"
    )


def _texts(value: object) -> list[str]:
    if value is None:
        return []
    return [str(text) for text in value] if isinstance(value, ListConfig) else [str(value)]
