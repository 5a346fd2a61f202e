"""Which checkpoints ``evaluate reference=`` can compare."""

from __future__ import annotations

from s15erav3.errors import UserError
from s15erav3.loading import Saved, Trained


def refuse_unlike(trained: Trained, reference: Saved, length: int, extension: float) -> None:
    """Refuse a reference that cannot be compared token by token and layer by layer.

    Raises:
        UserError: it differs in tokenizer, layers or experts, or supports only shorter sequences.
    """
    its, mine = (
        {
            "tokenizer": f"{tokenizer.name} ({tokenizer.fingerprint[:8]})",
            "list of layers with experts": config.moe_layers[: config.num_moe_layers],
            "number of experts": config.n_routed_experts,
            "number of experts per token": config.num_experts_per_tok,
        }
        for tokenizer, config in ((s.tokenizer, s.net.config) for s in (reference, trained.saved))
    )
    longest = max(reference.net.config.max_position_embeddings, int(reference.sequence_length * extension))
    its["sequence length"], mine["sequence length"] = min(length, longest), length
    for name, found in its.items():
        if found != mine[name]:
            raise UserError(
                f"reference={reference.file} cannot be compared: its {name} is {found}, not {mine[name]} as the "
                "checkpoint's; give another checkpoint of the same run."
            )
