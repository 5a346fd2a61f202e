"""``s15erav3 sample``: what a checkpoint writes after a prompt."""

from __future__ import annotations

import sys

from omegaconf import DictConfig, ListConfig

from s15erav3 import cli
from s15erav3.errors import UserError, check_number
from s15erav3.model.generate import Sampling, continue_sequence
from s15erav3.restore import Trained, restore, with_checkpoint


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 sample --help``."""
    cli.run("sample", sample, with_checkpoint("sample", arguments))
    return 0


def sample(cfg: DictConfig) -> list[str]:
    """Continue every prompt and print prompt and continuation to standard output.

    Returns:
        the continuations, without the prompts.

    Raises:
        UserError: the checkpoint or a setting is unusable.
    """
    check_number("max_new_tokens", cfg.max_new_tokens, at_least=1, whole=True)
    check_number("seed", cfg.seed, at_least=0, whole=True)
    try:
        sampling = Sampling(cfg.temperature, cfg.top_k, cfg.top_p, cfg.repetition_penalty)
    except (ValueError, TypeError) as error:
        raise UserError(f"{error}.") from error
    trained = restore(cfg)
    prompts = list(cfg.prompt) if isinstance(cfg.prompt, ListConfig) else [cfg.prompt]
    texts = []
    for prompt in prompts:
        text = continuation(trained, str(prompt), sampling, cfg.max_new_tokens, cfg.seed)
        sys.stdout.write(f"{prompt}{text}\n" + ("\n" if len(prompts) > 1 else ""))
        sys.stdout.flush()
        texts.append(text)
    return texts


def continuation(trained: Trained, prompt: str, sampling: Sampling, max_new_tokens: int, seed: int) -> str:
    """The text that follows ``prompt``, up to the end of the document."""
    tokenizer = trained.tokenizer
    with trained.autocast():
        ids = continue_sequence(
            trained.net,
            [tokenizer.end_of_text, *tokenizer.encode(prompt)],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=seed,
            context=trained.run["sequence_length"],
            stop=tokenizer.end_of_text,
        )
        return tokenizer.decode(list(ids))
