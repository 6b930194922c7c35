"""Scores, samples and curves of a trained run, printed at its end."""

import itertools

import jax

from transformer_jax.analysis.curves import draw_curves
from transformer_jax.data.examples import reasons
from transformer_jax.parallel.distributed import is_first
from transformer_jax.runs.run import Run
from transformer_jax.training.step import local_mesh


def show_result(run: Run, steps: list[int], samples: int = 5, *, devices: int = 1) -> None:
    """Draws `curves.png`; prints scores on the test split and a few predictions of the mean parameters at `steps`.

    Up to `devices` of this process's devices shard the parameters.
    """
    source, task = run.experiment.data.source, run.experiment.task
    picture = draw_curves(run.directory) if is_first() else None
    if picture is not None:
        print(f"curves: {picture}", flush=True)
    split = next((split for split in ("test", "validation") if split in source.splits), None)
    if split is None:
        return
    examples, skipped = run.examples(split)
    mesh = local_mesh(devices)
    predictor = run.predictor_of(steps, mesh)
    print(f"evaluating {len(examples):,} {split} examples with the parameters of step {', '.join(map(str, steps))}")
    if skipped:
        print(f"  {reasons(skipped)}")
    with jax.set_mesh(mesh):
        for name, value in task.evaluate(predictor, examples).items():
            print(f"  {name:<20} {value:.4g}" if isinstance(value, float) else f"  {name:<20} {value}")
        for line in task.samples(predictor, list(itertools.islice(examples, samples))):
            print(f"  {line}")
