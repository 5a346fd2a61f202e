"""The table of all metrics: one name with one meaning, wherever it is logged.

Names with ``_global`` refer to a whole text: the validation part, or what ``evaluate`` reads. Without it, a metric of
the loads refers to one optimizer step. This table is the only definition of names: docs/metrics.md, W&B's summaries and
the hover texts of the pages are generated from it, and a test compares it with what runs log.
"""

from __future__ import annotations

from functools import cache

from s15erav3.metrics.metric import Metric, Place

STEP: tuple[Place, ...] = ("train", "result")
TEXT: tuple[Place, ...] = ("validation", "result", "evaluate")

PROGRESS = (
    Metric("step", "optimizer steps", "neither", ("train", "validation", "evaluate"),
           "Optimizer steps done: of the row, or of the checkpoint that is evaluated (W&B: `trainer/global_step`)."),
    Metric("steps", "optimizer steps", "neither", ("result",), "Optimizer steps that the run has done."),
    Metric("max_steps", "optimizer steps", "neither", ("result",), "Optimizer steps that were planned."),
    Metric("tokens", "tokens", "neither", ("train", "validation", "result"),
           "Tokens trained on so far, over all ranks."),
    Metric("flops", "FLOPs", "neither", ("train", "result"),
           "Model FLOPs of training so far: `tokens` times those of one token, a forward pass and twice that for the "
           "backward pass; of the routed experts only the chosen ones count."),
    Metric("epochs", "passes", "neither", ("result",), "Passes over the training part, in windows."),
    Metric("wall_seconds", "s", "lower", ("result",),
           "Time from the start of the process, or of the resume, to its end."),
    Metric("threads", "threads", "neither", ("result",), "Threads of each process (`trainer.threads`)."),
    Metric("params/total", "parameters", "neither", ("result",), "Parameters of the model, those of multi-token "
           "prediction included."),
    Metric("params/active", "parameters", "neither", ("result",), "Parameters that one token uses."),
)  # fmt: skip

LEARNING = (
    Metric("train/loss", "nats per token", "lower", STEP,
           "Cross-entropy of the next token, mean over the steps since the row before."),
    Metric("train/bpb", "bits per byte", "lower", STEP,
           "Bits per UTF-8 byte of the training text, mean over the steps since the row before."),
    Metric("train/mtp_loss", "nats per token", "lower", STEP,
           "Cross-entropy of multi-token prediction before its weight, mean over its blocks and over the steps since "
           "the row before."),
    Metric("train/balance_loss", "nats per token", "neither", STEP,
           "Term of the balancing strategy and its add-ons in the loss, mean over the steps since the row before."),
    Metric("train/grad_norm", "1", "neither", STEP,
           "L2 norm of all gradients of the step, before clipping."),
    Metric("train/learning_rate", "1", "neither", STEP, "Learning rate of the first parameter group in the step."),
    Metric("train/skipped_steps", "optimizer steps", "lower", STEP,
           "Steps skipped so far because a loss or a gradient was not finite; only with trainer.skip_nonfinite."),
    Metric("val/loss", "nats per token", "lower", ("validation", "result"),
           "Cross-entropy of the next token over the whole validation part, without multi-token prediction."),
    Metric("val/bpb", "bits per byte", "lower", ("validation", "result"),
           "Bits per UTF-8 byte of the whole validation part: compares any tokenizers and sizes."),
    Metric("best/val/bpb", "bits per byte", "lower", ("result",),
           "Lowest `val/bpb` of the run so far: that of best.ckpt."),
    Metric("text/loss", "nats per token", "lower", ("evaluate",),
           "Cross-entropy of the next token over the text that evaluate reads."),
    Metric("text/bpb", "bits per byte", "lower", ("evaluate",),
           "Bits per UTF-8 byte of the text that evaluate reads; of the validation part it is `val/bpb`."),
    Metric("text/sliding_loss", "nats per token", "lower", ("evaluate",),
           "`text/loss` by windows that start every `stride=` tokens and score only what is new to them."),
    Metric("text/sliding_bpb", "bits per byte", "lower", ("evaluate",),
           "`text/bpb` by these windows: each token has the sequence's length less `stride=` tokens before it, or all "
           "that there are."),
    Metric("text/tokens", "tokens", "neither", ("evaluate",), "Tokens predicted of the text that evaluate reads."),
    Metric("text/bytes", "bytes", "neither", ("evaluate",), "UTF-8 bytes of these tokens."),
)  # fmt: skip

BALANCE = (
    Metric("balance/maxvio_batch", "1", "lower", STEP,
           "MaxVio, (largest load - mean load) / mean load, of one optimizer step, mean over layers, those of "
           "multi-token prediction included; 0 is even."),
    Metric("balance/maxvio_global", "1", "lower", TEXT, "MaxVio over a whole text, mean over layers."),
    Metric("balance/maxvio_floor", "1", "neither", STEP,
           "MaxVio that even but random routing of as many tokens as one optimizer step has would show on average."),
    Metric("balance/maxvio_floor_global", "1", "neither", TEXT,
           "MaxVio that even but random routing of as many tokens as the whole text has would show on average."),
    Metric("balance/experts_per_token", "experts", "neither", STEP,
           "Routed experts that a token uses, mean over the tokens of one optimizer step and over layers; only where "
           "tokens have no fixed number of experts."),
    Metric("balance/experts_per_token_global", "experts", "neither", TEXT,
           "Routed experts that a token uses, mean over the tokens of a whole text and over layers; only where tokens "
           "have no fixed number of experts."),
    Metric("balance/rank_maxvio", "1", "lower", STEP,
           "With expert parallelism: MaxVio of all ranks in place of the experts, (most tokens that travel to a rank - "
           "mean) / mean, of one optimizer step, mean over layers. The slowest rank sets the time of a step."),
    Metric("balance/minvio_batch", "1", "lower", STEP,
           "(mean load - smallest load) / mean load of one optimizer step, mean over layers; 1 with a dead expert."),
    Metric("balance/minvio_global", "1", "lower", TEXT,
           "(mean load - smallest load) / mean load over a whole text, mean over layers."),
    Metric("balance/entropy", "1", "higher", STEP,
           "Entropy of the loads of one optimizer step over its maximum, mean over layers; 1 is even."),
    Metric("balance/entropy_global", "1", "higher", TEXT,
           "Entropy of the loads over a whole text over its maximum, mean over layers; 1 is even."),
    Metric("balance/cv", "1", "lower", STEP,
           "Coefficient of variation of the loads of one optimizer step, mean over layers."),
    Metric("balance/cv_global", "1", "lower", TEXT,
           "Coefficient of variation of the loads over a whole text, mean over layers."),
    Metric("balance/gini", "1", "lower", STEP,
           "Gini coefficient of the loads of one optimizer step, mean over layers; 0 is even."),
    Metric("balance/gini_global", "1", "lower", TEXT,
           "Gini coefficient of the loads over a whole text, mean over layers; 0 is even."),
    *(
        Metric(f"balance/load_p{percent:02d}_global", "fair shares", "neither", TEXT,
               f"Percentile {percent} of the loads over a whole text, over the experts of all layers together.")
        for percent in (5, 50, 95)
    ),
    Metric("balance/dead_experts", "experts", "lower", STEP,
           "Experts without a single token in one optimizer step, of all layers together."),
    Metric("balance/dead_experts_global", "experts", "lower", TEXT,
           "Experts without a single token of a whole text, of all layers together."),
    Metric("balance/drop_rate", "1", "lower", STEP,
           "Share of the choices of one optimizer step that were beyond their expert's capacity, and dropped."),
    Metric("balance/bias_norm", "affinity", "neither", (*STEP, "evaluate"),
           "L2 norm of a layer's biases after the step, mean over layers, those of multi-token prediction included."),
    Metric("balance/bias_spread", "affinity", "neither", (*STEP, "evaluate"),
           "Largest minus smallest bias of a layer after the step, mean over layers, those of multi-token prediction "
           "included."),
    Metric("balance/confidence", "1", "neither", TEXT,
           "Largest affinity of a token over the sum of its affinities, mean over the tokens of a whole text and over "
           "layers."),
    Metric("balance/margin", "affinity", "neither", TEXT,
           "Score + bias of a token's last chosen expert less that of the first not chosen, mean over the tokens of a "
           "whole text and over layers."),
    Metric("balance/churn", "1", "lower", ("validation", "result"),
           "Share of the tokens of the first validation batch whose experts the last bias update changed, mean over "
           "layers."),
    Metric("balance/step_churn", "1", "lower", ("validation", "result"),
           "Share of the tokens of the first validation batch whose experts the last optimizer step changed, weights "
           "and biases together, mean over layers; absent where a time limit causes the validation."),
    Metric("balance/weight_churn", "1", "lower", ("validation", "result"),
           "The same by the weights alone: with the biases as before the step."),
    Metric("balance/next_churn", "1", "lower", ("evaluate",),
           "Share of the tokens of the first batch of the text whose experts the strategy's next bias update would "
           "change, mean over layers."),
    Metric("balance/saturation", "1", "neither", ("evaluate",),
           "Share of a token's experts that the checkpoint reference= also chooses for it, mean over layers."),
    Metric("balance/coactivation", "1", "neither", ("evaluate",),
           "Share of an expert's tokens that also use the expert it shares most with, mean over experts and layers."),
    Metric("balance/output_similarity", "1", "neither", ("evaluate",),
           "Cosine between the outputs of two experts for the same token of the first batch of the text, mean over "
           "tokens, pairs and layers (SimBal's PES): 1 is redundant."),
    Metric("balance/coactivation_even", "1", "neither", ("evaluate",),
           "The share that two experts would have in common if experts were chosen independently."),
    Metric("specialisation/{domain}/bits", "bits", "neither", ("evaluate",),
           "Mutual information of a slot's expert and its token's value in the domain, Miller-Madow corrected, mean "
           "over layers."),
    Metric("specialisation/{domain}/bits_plug_in", "bits", "neither", ("evaluate",),
           "The same without the correction: many rare values look informative by chance."),
    Metric("specialisation/{domain}/share", "1", "neither", ("evaluate",),
           "The corrected bits over the entropy of the value."),
    Metric("specialisation/{domain}/share_of_expert", "1", "neither", ("evaluate",),
           "The corrected bits over the entropy of the expert, which bounds them: comparable when loads are uneven."),
)  # fmt: skip

LAYER_OF_STEP = ("maxvio",)
LAYER_OF_TEXT = (
    *("maxvio_global", "minvio_global", "entropy_global", "cv_global", "gini_global", "bias_norm", "bias_spread"),
    "experts_per_token_global",
    *("confidence", "margin", "next_churn", "saturation", "coactivation", "output_similarity"),
)
DOMAIN = ("bits", "bits_plug_in", "share", "share_of_expert")

EXPERTS = (
    Metric("load_L{layer}/E{expert}", "fair shares", "neither", ("train",),
           "Load of an expert in one optimizer step over the mean load of its layer; 1 is its fair share."),
    Metric("bias_L{layer}/E{expert}", "affinity", "neither", ("train",), "Bias of an expert after the bias update."),
    Metric("bias_update_L{layer}/E{expert}", "affinity", "neither", ("train",),
           "Bias update of an expert: what the optimizer step added to its bias."),
    Metric("expert_L{layer}/{end}", "number", "neither", ("train",),
           "Of a layer of many experts, which one has the most tokens of the step (top1, top2, ...) or the fewest "
           "(bottom1, ...)."),
    Metric("load_L{layer}/{end}", "fair shares", "neither", ("train",), "Load of that expert."),
    Metric("bias_L{layer}/{end}", "affinity", "neither", ("train",), "Bias of that expert after the bias update."),
    Metric("bias_update_L{layer}/{end}", "affinity", "neither", ("train",), "Bias update of that expert."),
    Metric("load_L{layer}/{quantile}", "fair shares", "neither", ("train",),
           "Quantile of the loads of a layer of many experts: q000 is the smallest, q050 the median, q100 the "
           "largest."),
    Metric("bias_L{layer}/{quantile}", "affinity", "neither", ("train",), "The same of its biases."),
    Metric("bias_update_L{layer}/{quantile}", "affinity", "neither", ("train",), "The same of its bias updates."),
    Metric("layers", "list", "neither", ("evaluate",), "Numbers of the layers with experts."),
    Metric("load", "assignments, layers x experts", "neither", ("evaluate",), "Assignments of tokens to each expert."),
    Metric("bias", "affinity, layers x experts", "neither", ("evaluate",), "Bias of each expert."),
    Metric("ablation/tokens", "tokens", "neither", ("evaluate",), "Tokens on which experts were removed."),
    Metric("ablation/change", "bits per byte, layers x experts", "neither", ("evaluate",),
           "What these tokens cost more without each expert."),
    Metric("ablation/half", "bits per byte, layers x experts", "neither", ("evaluate",),
           "Half the 95 % interval of `ablation/change` over documents; null in a single document."),
    Metric("ablation/specialists", "list", "neither", ("evaluate",),
           "For each value with a specialist: what it costs more without that expert (`change`) and without another "
           "expert of the layer (`other`), in bits per byte."),
    Metric("ablation/domains", "list", "neither", ("evaluate",),
           "Means of `ablation/specialists` over the values of each domain, and over all."),
)  # fmt: skip

SPEED = (
    Metric("perf/tokens_per_second", "tokens/s", "higher", STEP,
           "Tokens trained on per second of training, over all ranks, since the row before."),
    Metric("perf/mfu", "1", "higher", STEP,
           "Share of the devices' peak FLOP/s that the model's FLOPs took since the row before (on a CPU: of a "
           "measured matrix product)."),
    Metric("perf/memory_gb", "GB", "lower", STEP,
           "Most memory so far, 1e9 bytes: allocated on the GPU, or resident in the process on a CPU."),
    Metric("perf/tokens_per_second_overall", "tokens/s", "higher", ("result",),
           "Tokens trained on per second of training, over all ranks, since the run began or was last resumed."),
    Metric("perf/compile_seconds", "s", "lower", ("result",),
           "Time spent in `torch.compile` since the run began or was last resumed, parts of the first steps."),
    Metric("perf/mfu_overall", "1", "higher", ("result",),
           "`perf/mfu` over all of the training since the run began or was last resumed."),
)  # fmt: skip


def _of_layer(name: str) -> Metric:
    """Return the metric of one layer whose mean over layers is ``balance/NAME``, or is NAME."""
    whole = next(m for m in BALANCE if m.name in (f"balance/{name}", f"balance/{name}_batch", name))
    where: tuple[Place, ...] = ("train",) if name in LAYER_OF_STEP else ("evaluate",)
    return Metric(f"layer_{{layer}}/{name}", whole.unit, whole.better, where, f"`{whole.name}` of one layer.")


LAYERS = tuple(
    _of_layer(name)
    for name in (*LAYER_OF_STEP, *LAYER_OF_TEXT, *(f"specialisation/{{domain}}/{name}" for name in DOMAIN))
)

SECTIONS = {
    "Learning": LEARNING,
    "Balance": BALANCE,
    "Single experts": EXPERTS,
    "Single layers": LAYERS,
    "Speed": SPEED,
    "Progress and size": PROGRESS,
}
"""All metrics, in the order of docs/metrics.md."""

METRICS = tuple(metric for section in SECTIONS.values() for metric in section)


@cache
def find(name: str) -> Metric | None:
    """Return the metric that has the name ``name``; ``None`` if there is none."""
    return next((metric for metric in METRICS if metric.pattern.fullmatch(name)), None)


def hover(name: str) -> str:
    """Return definition, unit and which way is better, as plain text, for a page's metric; empty for other names."""
    metric = find(name)
    if metric is None:
        return ""
    unit = "" if metric.unit == "1" else f" In {metric.unit}."
    better = "" if metric.better == "neither" else f" {metric.better.capitalize()} is better."
    return metric.says.replace("`", "") + unit + better
