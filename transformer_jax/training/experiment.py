"""An experiment: everything that a run depends on, as one typed value."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.tasks.task import Task
from transformer_jax.training.optimizer import OptimizerConfig


@dataclass(frozen=True)
class TrainConfig:
    """How long a run goes on, and what it leaves behind on the way."""

    steps: Annotated[int, Ge(1), MAY_CHANGE] = 100_000
    """Updates of the parameters in all."""
    stop_after: Annotated[Annotated[int, Ge(1)] | None, MAY_CHANGE] = None
    """Save and end at this step, leaving schedules as they are; None: at `steps`."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of parameters, batches and dropout."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Micro-batches that every batch is split into, to save memory; the numbers stay the same but for dropout."""
    log_every: Annotated[int, Ge(1), MAY_CHANGE] = 100
    """Steps between rows of metrics.jsonl."""
    evaluate_every: Annotated[int, Ge(0), MAY_CHANGE] = 1_000
    """Steps between evaluations on the validation examples; 0: only at the end."""
    save_every: Annotated[int, Ge(0), MAY_CHANGE] = 1_000
    """Steps between checkpoints; 0: only at the end."""
    keep: Annotated[int, Ge(1), MAY_CHANGE] = 3
    """The newest checkpoints that are kept."""
    best: Annotated[str, MAY_CHANGE] = "validation_loss"
    """The metric by which one more checkpoint, the best, is kept; empty: none."""
    validation_examples: Annotated[int, Ge(0), MAY_CHANGE] = 500
    """Validation examples that are scored at an evaluation, the first ones; 0: none."""
    checkpoint: Annotated[str, MAY_CHANGE] = "last"
    """What is evaluated and used after training unless told otherwise: last, best, a step, or average:N."""
    initialize_from: str = ""
    """A run, RUN or RUN:STEP, whose vocabulary and fitting parameters are taken; empty: none. Its file is executed."""
    lost_process_timeout: Annotated[int, Ge(1), MAY_CHANGE] = 100
    """Seconds after which a process counts as lost, and the others end, where several train one run."""
    random_bits: Literal["threefry2x32", "rbg"] = "threefry2x32"
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
    mesh: Annotated[MeshConfig, MAY_CHANGE] = field(default_factory=MeshConfig)
    """The devices."""
    variant: str = "experiment"
    """The function of the experiment's file that this comes from; chosen by --variant."""
