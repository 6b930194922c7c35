"""Linear and kernel classifiers on pixels, fitted to the train split of a run on pictures and scored beside it.

    python benchmarks/pixels.py RUN [--split test]

Logistic regression and a support vector machine with an RBF kernel, of scikit-learn, on the pixels that the run's model
reads; the strength of both is chosen on the validation split.
"""

import argparse
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from transformer_jax.data.pictures import decode_picture, encode_picture
from transformer_jax.runs.run import Run

KINDS: dict[str, Any] = {
    "logistic regression": lambda strength: LogisticRegression(C=strength, max_iter=2_000),
    "RBF support vector machine": lambda strength: SVC(C=strength),
}


def pixels_and_labels(run: Run, split: str) -> tuple[np.ndarray, list[str]]:
    """Of a split, in order."""
    task: Any = run.experiment.task
    examples, _ = run.examples(split)
    size = {"size": task.image_size, "channels": task.channels}
    pictures = [decode_picture(encode_picture(example["image"]), **size).reshape(-1) for example in examples]
    return np.stack(pictures) / 255, [example["label"] for example in examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    run = Run.open(options.run)
    train, validation, test = (pixels_and_labels(run, split) for split in ("train", "validation", options.split))
    for name, make in KINDS.items():
        fitted = {strength: make(strength).fit(*train) for strength in (0.1, 1.0, 10.0, 100.0)}
        best = max(fitted, key=lambda strength: fitted[strength].score(*validation))
        print(f"{name} (C={best:g}): {100 * fitted[best].score(*test):.2f} % accuracy")
    examples, _ = run.examples(options.split)
    found = run.predictor().classify([example["image"] for example in examples])
    right = sum(one == other for one, other in zip(found, test[1], strict=True))
    print(f"{run.directory}: {100 * right / len(found):.2f} % accuracy")


if __name__ == "__main__":
    main()
