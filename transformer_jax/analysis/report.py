"""Scores, samples and curves of a trained run, printed at its end."""

from jax.sharding import Mesh

from transformer_jax.analysis.curves import draw_curves
from transformer_jax.data.examples import reasons
from transformer_jax.parallel.distributed import is_first
from transformer_jax.runs.evaluation import Evaluation, encoded_examples
from transformer_jax.runs.result import write_result
from transformer_jax.runs.run import Run, Steps


def show_result(run: Run, steps: Steps, mesh: Mesh, samples: int = 5) -> None:
    """Draws `curves.png`; prints scores on the test split and some predictions of the mean parameters at `steps`.

    Writes the scores to `result.json` as well, which says that the run has finished. The devices of the mesh share
    the work; all processes call this together.
    """
    experiment = run.experiment
    if is_first() and (picture := draw_curves(run.directory)):
        print(f"curves: {picture}", flush=True)
    split = next((split for split in ("test", "validation") if split in experiment.data.source.splits), None)
    devices = list(mesh.devices.flat)
    if split is None:
        if is_first():
            write_result(run.directory, checkpoint=steps, split=None, scores={}, devices=devices)
        return
    examples, skipped = run.examples(split)
    print(f"evaluating {len(examples):,} {split} examples with the parameters of step {steps}")
    if skipped:
        print(f"  {reasons(skipped)}")
    model = run.model_of(steps, mesh)
    encoded = encoded_examples(run, examples)
    scores = Evaluation(run, encoded, mesh)(model)
    for name, value in scores.items():
        print(f"  {name:<20} {value:.4g}" if isinstance(value, float) else f"  {name:<20} {value}")
    predictor = experiment.task.predictor(model, run.tokenizers, experiment.data)
    readable = [examples[index] for index in dict.fromkeys(encoded.of_rows)]
    for line in experiment.task.samples(predictor, readable[:samples]):
        print(f"  {line}")
    if is_first():
        write_result(run.directory, checkpoint=steps, split=split, scores=scores, devices=devices)
