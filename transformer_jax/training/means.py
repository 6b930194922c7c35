"""The means of the metrics of several steps, which make up one row of a run's metrics."""

from collections.abc import Mapping
from typing import Any

from transformer_jax.tasks.task import means_of

WEIGHT = "_weight"
"""Ends the name under which the weight of a task's metric stands among the metrics of a step."""


class Means:
    """The means over the steps since the last row: `add` for every step, then `row`.

    `saved` is the `state` at a checkpoint; a run that goes on from there gives the rows that it would have given.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None):
        self._sums: dict[str, tuple[float, float]] = {}
        self._steps = 0
        if saved:
            self._sums = {name: (total, weight) for name, (total, weight) in saved["sums"].items()}
            self._steps = saved["steps"]

    def add(self, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of one step."""
        self._steps += 1
        for name, value in metrics.items():
            if not name.endswith(WEIGHT):
                # A mean without a weight of its own, such as the gradient's norm, counts once for every step.
                weight = metrics.get(name + WEIGHT, 1.0)
                total, before = self._sums.get(name, (0.0, 0.0))
                # As `make_step` divides: by 1 at least.
                self._sums[name] = total + value * max(weight, 1.0), before + weight

    def row(self) -> dict[str, float | int]:
        """Returns the means, the number of steps as `steps_averaged` and the sum of their `tokens`; begins anew."""
        row: dict[str, float | int] = {"steps_averaged": self._steps, **means_of(self._sums)}
        row["tokens"] = int(self._sums["tokens"][0])
        self._sums, self._steps = {}, 0
        return row

    def state(self) -> dict[str, Any]:
        """The sums so far, as JSON holds them."""
        return {"steps": self._steps, "sums": {name: list(sums) for name, sums in self._sums.items()}}
