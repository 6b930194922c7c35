"""An experiment: everything that a run depends on, as one typed value."""

from dataclasses import dataclass, field
from typing import Any

from transformer_jax.data.config import DataConfig
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.tasks.task import Task
from transformer_jax.training.optimizer import OptimizerConfig


@dataclass(frozen=True)
class TrainConfig:
    """How long a run goes on, and what it leaves behind on the way."""

    steps: int = 100_000
    """Updates of the parameters in all."""
    stop_after: int | None = None
    """Save and end at this step, leaving schedules as they are; None: at `steps`."""
    seed: int = 0
    """Seed of parameters, batches and dropout."""
    accumulate: int = 1
    """Micro-batches that every batch is split into, to save memory; the numbers stay the same but for dropout."""
    log_every: int = 100
    """Steps between rows of metrics.jsonl."""
    evaluate_every: int = 1_000
    """Steps between evaluations on the validation examples; 0: only at the end."""
    save_every: int = 1_000
    """Steps between checkpoints; 0: only at the end."""
    keep: int = 3
    """The newest checkpoints that are kept."""
    best: str = "validation_loss"
    """The metric by which one more checkpoint, the best, is kept; empty: none."""
    validation_examples: int = 500
    """Validation examples that are scored at an evaluation, the first ones; 0: none."""
    checkpoint: str = "last"
    """What is evaluated and used after training unless told otherwise: last, best, a step, or average:N."""
    initialize_from: str = ""
    """A run, RUN or RUN:STEP, whose vocabulary and fitting parameters are taken; empty: none. Its file is executed."""
    lost_process_timeout: int = 100
    """Seconds after which a process counts as lost, and the others end, where several train one run."""
    random_bits: str = "threefry2x32"
    """Generator of dropout bits: threefry2x32 (the same on every mesh) or rbg (faster)."""


@dataclass(frozen=True)
class Experiment:
    """What is learnt, from what, by which model, how, and on which devices."""

    task: Task
    """What is learnt: Translation, or a task of your own."""
    data: DataConfig
    """The text and its batches."""
    model: Any
    """The model's sizes and variants; its type chooses the model."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How parameters follow the gradient."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, seed, checkpoints and evaluation."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """The devices."""
    variant: str = "experiment"
    """The function of the experiment's file that this comes from; chosen by --variant."""
