"""A run of fine-tuning that takes seconds."""

from __future__ import annotations

from studio.core.run import RunPlan

QUICK = {
    "rank": 2, "steps": 3, "guidance_scale": 1.0, "updates": 2, "learning_rate": 0.01,
    "prompts_per_epoch": 2, "images_per_prompt": 2, "kl_budget": 9000, "diversity_drop": 1,
}  # fmt: skip
PLAN = RunPlan(
    "bright", ("red apple", "castle", "cat"), (), reward="brightness", model="tiny", epochs=2,
    settings=QUICK,
)  # fmt: skip
