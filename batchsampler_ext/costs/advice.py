"""What the costs suggest, as far as it follows from what was measured."""

from __future__ import annotations

from .._timing import duration
from .model import Costs

TARGET_SHARE = 0.01  # of a training step


def advice(costs: Costs, step_seconds: float | None) -> list[str]:
    """step_seconds: of a training step without sampler and bank, if known."""
    settings = costs.settings
    cost = costs.step_seconds(settings.refresh_every)
    if step_seconds is None:
        return [
            f"That is below {TARGET_SHARE:.0%} of steps that take {duration(cost / TARGET_SHARE)} or more; "
            "--step-ms S says it for yours."
        ]
    least = costs.least_refresh_every(TARGET_SHARE * step_seconds)
    if least is None:
        once = costs.step_seconds(settings.num_batches) / step_seconds
        calls = costs.call_seconds() / step_seconds
        return [
            f"No --refresh-every up to a whole epoch keeps it below {TARGET_SHARE:.0%} of a step: a refresh every "
            f"{settings.num_batches:,} batches comes to {once:.2%}, of which updates and draws are {calls:.2%}."
        ]
    if least > settings.refresh_every:
        return [f"From about --refresh-every {least:,} on it stays below {TARGET_SHARE:.0%} of a step."]
    return [f"It stays below {TARGET_SHARE:.0%} of a step down to about --refresh-every {least:,}."]
