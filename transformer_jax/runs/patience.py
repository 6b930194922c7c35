"""Early stopping: training ends where evaluations have ceased to become better (`train.patience`)."""

import math
from collections.abc import Mapping
from typing import Any

from transformer_jax.runs.run import higher_is_better
from transformer_jax.training.experiment import Experiment


class Patience:
    """Counts the evaluations since the best one; it is told of every row of metrics, also those before a resume."""

    def __init__(self, experiment: Experiment):
        self._metric, self._limit = experiment.train.best, experiment.train.patience
        self._sign = 1 if higher_is_better(experiment) else -1
        self._best, self._waited = -math.inf, 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Takes the metric of a row that has it; None, as a row on disk holds what is no number, is the worst value."""
        if self._metric in row:
            value = row[self._metric]
            value = -math.inf if value is None or math.isnan(value) else self._sign * value
            better = value > self._best
            self._best, self._waited = (value, 0) if better else (self._best, self._waited + 1)

    @property
    def exhausted(self) -> bool:
        """Whether training ends."""
        return 0 < self._limit <= self._waited

    def __str__(self) -> str:
        return (
            f"{self._waited} evaluations in a row brought no better {self._metric} than {self._sign * self._best:.4g}"
        )
