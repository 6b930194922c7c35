"""Two runs on the same examples: is one better than the other, or is it chance?"""

from typing import Any

import jax

from transformer_jax.data.sources import Example
from transformer_jax.parallel.mesh import local_mesh
from transformer_jax.runs.evaluation import encoded_examples
from transformer_jax.runs.run import Run
from transformer_jax.tasks.scores import compare_texts
from transformer_jax.tasks.text_task import TextTask


def compare(runs: tuple[Run, Run], steps: tuple[list[int], list[int]], examples: list[Example], resamples: int) -> Any:
    """The scores of the first run's task for the texts of both, and how surely they differ; see `compare_texts`.

    Beside the `scores`, how many `examples` both could read, and how many were `skipped`. `steps` are those of the
    checkpoints of each run. Raises ValueError for runs of tasks that write no texts.
    """
    first, second = (outputs(run, at, examples) for run, at in zip(runs, steps, strict=True))
    both = sorted(first.keys() & second.keys())
    if not both:
        raise ValueError(f"none of {len(examples):,} examples is short enough for both runs")
    task, kept = text_task(runs[0]), [examples[index] for index in both]
    texts = [first[index] for index in both], [second[index] for index in both]
    right, scoring = list(map(task.right, kept)), task.scoring(kept)
    scores = compare_texts(*texts, right, task.scores, scoring, resamples=resamples)
    return {"examples": len(both), "skipped": len(examples) - len(both), "resamples": resamples, "scores": scores}


def outputs(run: Run, steps: list[int], examples: list[Example]) -> dict[int, str]:
    """The texts that the mean of the parameters at these steps writes, as in an evaluation, by the example's index.

    Examples that are too long have none.
    """
    task, mesh = text_task(run), local_mesh(run.experiment.mesh)
    encoded = encoded_examples(run, examples)
    predictor = task.predictor(run.model_of(steps, mesh), run.tokenizers, run.experiment.data)
    with jax.set_mesh(mesh):
        return dict(zip(encoded.of_rows, task.outputs(predictor, encoded), strict=True))


def text_task(run: Run) -> TextTask:
    """The run's task; ValueError for one that writes no text."""
    task = run.experiment.task
    if not isinstance(task, TextTask):
        raise ValueError(f"{run.directory} is of {type(task).__name__}; only texts of Translation and its like compare")
    return task
