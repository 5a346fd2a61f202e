"""``s15erav3 sample``: generate text from a checkpoint after a prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable

from omegaconf import DictConfig

from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import by_place, split
from s15erav3.cli.overrides import key_of
from s15erav3.cli.settings import check_settings
from s15erav3.conversation import converse
from s15erav3.data.detokenizer import TextStream
from s15erav3.errors import UserError
from s15erav3.loading import Trained, restore
from s15erav3.model import ModelConfig
from s15erav3.model.generate import Emit, Generated, generate
from s15erav3.model.speculate import generate_speculatively
from s15erav3.request import Request, asked
from s15erav3.terminal import say


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 sample --help``."""
    words = by_place("sample", arguments, "checkpoint")
    line = split(words)
    prompted = line.multirun or line.only_tells or any(key_of(word) == "prompt" for word in line.words)
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    hydra_setup.run("sample", talk if at_terminal and not prompted else sample, words)
    return 0


def sample(cfg: DictConfig) -> list[str]:
    """Continue every prompt; texts go to standard output, statistics to standard error.

    A single text is streamed; several texts are printed when all are complete.

    Returns:
        The continuations, without the prompts.

    Raises:
        UserError: the checkpoint or a setting is unusable.
    """
    request = asked(cfg)
    return answer(ready(cfg, request), request)


def talk(cfg: DictConfig) -> None:
    """Continue prompts interactively, with the model loaded once.

    Raises:
        UserError: the checkpoint or a setting is unusable.
    """
    trained = ready(cfg, asked(cfg))

    def check(settings: DictConfig) -> None:
        check_settings(settings, "sample")
        asked(settings)

    def write_one(settings: DictConfig) -> None:
        answer(trained, asked(settings))

    converse(cfg, check, write_one)


def ready(cfg: DictConfig, request: Request) -> Trained:
    """Load the model and check that it supports the request.

    Raises:
        UserError: it does not.
    """
    trained = restore(cfg)
    bad = next((name for name, value in trained.net.state_dict().items() if not value.isfinite().all()), None)
    if bad is not None:
        raise UserError(
            f"{trained.saved.file} cannot generate: its weight {bad} is not finite; sample from a checkpoint of before "
            "training diverged."
        )
    if not trained.net.config.causal:
        raise UserError(
            f"{trained.saved.file} cannot generate: its experts choose among future tokens "
            "(balancing=expert_choice is a control); use a model with another balancing."
        )
    if request.int8 and trained.device.type != "cpu":
        raise UserError("int8=true decodes on a CPU only; add trainer.accelerator=cpu, or leave int8 out.")
    if request.speculative and not trained.net.config.num_nextn_predict_layers:
        raise UserError(
            f"speculative=true needs multi-token-prediction blocks, and {trained.saved.file} has none; train with "
            "model.num_nextn_predict_layers=1, or leave speculative out."
        )
    return trained


def answer(trained: Trained, request: Request) -> list[str]:
    """Generate and print the requested texts; return the continuations."""
    if request.speculative:
        return speculate(trained, request)
    sequences = [prompt for prompt in request.prompts for _ in range(request.samples)]
    alone = len(sequences) == 1
    texts, took = write(trained, request, show if alone else None)
    for i, (prompt, text) in enumerate(zip(sequences, texts, strict=True)):
        show(f"{'' if i == 0 else chr(10)}{'' if alone else prompt + text}\n")
    report(trained.net.config, took)
    return texts


def write(trained: Trained, request: Request, shown: Callable[[str], None] | None) -> tuple[list[str], Generated]:
    """Continue all prompts as one batch; a single text is passed to ``shown`` in pieces, its prompt first."""
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
            int8=request.int8,
        )
    return [finish(stream, shown) for stream in streams], took


def speculate(trained: Trained, request: Request) -> list[str]:
    """Continue each prompt with speculative decoding, then again without it, to report the speedup."""
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
        same = "the same text" if text == texts[-1] else "a different text, as the two round differently,"
        share, rate = took.accepted / max(1, took.drafted), took.tokens / max(1, took.steps + 1)
        say(
            f"speculation: {took.accepted} of {took.drafted} drafts accepted ({share:.0%}), {rate:.2f} tokens a step; "
            f"plain decoding gave {same} in {plain.seconds:.2f} s: {plain.seconds / took.seconds:.2f} times faster",
            words=True,
        )
    return texts


def into(streams: list[TextStream], shown: Callable[[str], None] | None) -> Emit:
    """Pass each token to its stream, and new text to ``shown``."""

    def emit(sequence: int, token: int) -> bool:
        stream = streams[sequence]
        text = stream.add(token)
        if shown is not None:
            shown(text)
        return not stream.ended

    return emit


def finish(stream: TextStream, shown: Callable[[str], None] | None) -> str:
    """Close a stream and return its whole text."""
    rest = stream.close()
    if shown is not None:
        shown(rest)
    return stream.text


def show(text: str) -> None:
    """Write to standard output and flush."""
    sys.stdout.write(text)
    sys.stdout.flush()


def report(config: ModelConfig, took: Generated) -> None:
    """Report speed and memory use."""
    cached = took.cache_bytes_per_token
    entry = config.kv_lora_rank + config.qk_rope_head_dim
    ordinary = cached // entry * config.num_heads * (config.qk_head_dim + config.v_head_dim)
    say(
        f"{took.tokens:,} tokens in {took.seconds:.2f} s: {took.tokens / max(took.seconds, 1e-9):,.0f} tokens/s after "
        f"{took.prompt_seconds:.2f} s for the prompt; cache {cached:,} bytes per token, where ordinary multi-head "
        f"attention needs {ordinary:,}",
        words=True,
    )
