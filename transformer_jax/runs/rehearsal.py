"""The checks of evaluation before the first step: a finished training is not lost to a missing file."""

from transformer_jax.runs.run import Run

CHUNK = 1_000
"""Examples that are checked at once."""


def check_evaluation(run: Run) -> None:
    """Reads and checks the examples of every split but the one to learn from.

    Raises ValueError or FileNotFoundError, with one line, where their scores could not be computed after training.
    """
    task, data = run.experiment.task, run.experiment.data
    for split in data.source.splits:
        if split == "train":
            continue
        examples, _ = run.examples(split)
        try:
            if not examples:
                raise ValueError("there are none; leave the split out")
            for start in range(0, len(examples), CHUNK):
                chunk = examples[start : start + CHUNK]
                task.check_evaluation(run.tokenizers, chunk, max_length=data.max_length)
        except (ImportError, ValueError) as error:
            why = f"a package is missing: {error}" if isinstance(error, ImportError) else error
            raise ValueError(f"the {split} examples cannot be scored: {why}") from error
