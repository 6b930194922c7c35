"""The checks of evaluation before the first step: a finished training is not lost to a missing file."""

from transformer_jax.data.table import EncodedExamples
from transformer_jax.runs.evaluation import encoded_examples
from transformer_jax.runs.run import Run


def check_evaluation(run: Run, split: str) -> tuple[EncodedExamples, dict[str, int]]:
    """Encodes the examples of a split into the run's cache; returns them and how many were skipped, by reason.

    Raises ValueError or FileNotFoundError, with one line, where their scores could not be computed after training.
    """
    task, data = run.experiment.task, run.experiment.data
    examples, skipped = run.examples(split)
    try:
        if not examples:
            raise ValueError("there are none; leave the split out")
        encoded = encoded_examples(run, examples, keep=True)
        task.check_evaluation(run.tokenizers, encoded, max_length=data.max_length)
    except (ImportError, ValueError) as error:
        why = f"a package is missing: {error}" if isinstance(error, ImportError) else error
        raise ValueError(f"the {split} examples cannot be scored: {why}") from error
    return encoded, skipped
