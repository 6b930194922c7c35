"""An experiment: everything that a run depends on, as one typed value."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.tasks.task import Task
from transformer_jax.training.optimizer import OptimizerConfig

Interval = Annotated[int, Ge(0)] | Literal["epoch"]
"""A number of steps, or as many as an epoch has."""


@dataclass(frozen=True)
class TrainConfig:
    """Length of a run, its evaluations and its checkpoints."""

    steps: Annotated[int, Ge(1), Lt(2**31), MAY_CHANGE] = 100_000
    """Updates of the parameters in all."""
    stop_after: Annotated[Annotated[int, Ge(1)] | None, MAY_CHANGE] = None
    """Save and stop at this step without shortening schedules; None: at `steps`."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of parameters, batches and dropout."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Micro-batches per batch, to save memory; the numbers stay the same but for dropout."""
    log_every: Annotated[int, Ge(1), MAY_CHANGE] = 100
    """Steps between rows of metrics.jsonl."""
    log_to: Annotated[tuple[Literal["tensorboard", "wandb"], ...], MAY_CHANGE] = ("tensorboard",)
    """What shows the metrics beside metrics.jsonl: tensorboard (files in the run), wandb (Weights & Biases)."""
    evaluate_every: Annotated[Interval, MAY_CHANGE] = 1_000
    """Steps between evaluations on the validation examples, or epoch; 0: only at the end."""
    predict_every: Annotated[int, Ge(1), MAY_CHANGE] = 1
    """Every so many evaluations, and at the last, predictions are made and scored; at the others, the loss alone."""
    patience: Annotated[int, Ge(0), MAY_CHANGE] = 0
    """Training stops after so many evaluations without a better `best` than before them; 0: only at `steps`."""
    save_every: Annotated[Interval, MAY_CHANGE] = 1_000
    """Steps between checkpoints, or epoch; 0: only at the end."""
    keep: Annotated[int, Ge(1), MAY_CHANGE] = 3
    """The newest checkpoints that are kept."""
    best: Annotated[str, MAY_CHANGE] = "validation_loss"
    """Metric of the best checkpoint, which is kept beside the newest; empty: none is."""
    validation_examples: Annotated[int, Ge(0), MAY_CHANGE] = 500
    """Validation examples that are scored at an evaluation, the first ones; 0: none."""
    checkpoint: Annotated[str, MAY_CHANGE] = "last"
    """Checkpoint that is evaluated and used by default: last, best, ema (`optimizer.ema`), a step, or average:N."""
    initialize_from: str = ""
    """A run, RUN or RUN:STEP, whose vocabulary and fitting parameters are copied; empty: none. Its file is executed.
    Or the directory of a published model, whose sizes and forms replace those of `model` as well."""
    lost_process_timeout: Annotated[int, Ge(1), MAY_CHANGE] = 100
    """Seconds without a sign of one of several processes after which the others end."""
    random_bits: Literal["threefry2x32", "rbg"] = "threefry2x32"
    """Generator of dropout bits: threefry2x32 (the same on every mesh) or rbg (faster)."""


@dataclass(frozen=True)
class Experiment:
    """Task, data, model, optimizer, training and mesh of a run."""

    task: Task
    """The task to learn: Translation, or one of your own."""
    data: DataConfig
    """The text and its batches."""
    model: Any
    """Sizes and variants of the model that its `build(seed)` makes; also has `d_model` and `num_parameters()`."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer and its schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, seed, checkpoints and evaluation."""
    mesh: Annotated[MeshConfig, MAY_CHANGE] = field(default_factory=MeshConfig)
    """How many devices shard what."""
    variant: str = "experiment"
    """The function of the experiment's file that returned this; chosen by --variant."""
