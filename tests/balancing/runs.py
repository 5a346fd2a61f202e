"""Tiny runs by the verb ``train``, of each strategy and of all add-ons at once, as command-line settings."""

from __future__ import annotations

STEPS = 6
COMMON = [
    f"trainer.max_steps={STEPS}",
    "trainer.accumulate_grad_batches=2",
    "trainer.val_check_interval=1000",
    "callbacks.telemetry.every_n_steps=1",
    "callbacks.telemetry.per_expert=false",
    "callbacks.checkpoint.every_n_steps=2",
    "callbacks.samples=null",
    "logger=none",
    "data.sequence_length=16",
]
RUNS = {
    "loss_free": ["balancing=loss_free"],
    "proportional": ["balancing=proportional"],
    "original": ["balancing=original"],
    "smebu": ["balancing=smebu"],
    "dsv3": ["balancing=dsv3", "balancing.freeze_at=0.6"],
    "quantile": ["balancing=quantile", "balancing.ema=0.5"],
    "quantile_bins": ["balancing=quantile", "balancing.bins=1000"],
    "quantile_sequence": ["balancing=quantile", "balancing.scope=sequence"],
    "bip": ["balancing=bip"],
    "causal_sequence_bias": ["balancing=causal_sequence_bias", "model.num_nextn_predict_layers=1"],
    "anticipatory": ["balancing=anticipatory", "balancing.lag=2", "model.num_nextn_predict_layers=1"],
    "sinkhorn": ["balancing=sinkhorn"],
    "forced": ["balancing=forced", "balancing.load=zipf"],
    "hash": ["balancing=hash", "model.num_nextn_predict_layers=1"],
    "global": ["balancing=aux", "balancing.scope=global"],
    "sequence": ["balancing=aux", "balancing.scope=sequence"],
    "simbal": ["balancing=simbal"],
    "switch": ["balancing=switch"],
    "expert_threshold": ["balancing=expert_threshold", "model.num_nextn_predict_layers=1"],
    "relu_routing": ["balancing=relu_routing", "model.num_nextn_predict_layers=1"],
    "zero_experts": ["balancing=zero_experts", "model.num_nextn_predict_layers=1"],
    "expert_choice": ["balancing=expert_choice"],
    "none": ["balancing=none"],
    "add_ons": [
        "balancing=smebu",
        "balancing.z_loss=1e-3",
        "balancing.capacity_factor=1.0",
        "balancing.router_jitter=0.1",
        "balancing.expert_dropout=0.2",
        "model.num_nextn_predict_layers=1",
    ],
}
"""Names and what is particular to each run."""


def settings_of(name: str) -> list[str]:
    """All settings of a run, for ``tests.tiny.train``."""
    return [*COMMON, *RUNS[name]]
