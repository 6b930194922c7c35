"""Linear and kernel classifiers of log-mel features, fitted to the train split of a run on recordings, beside it.

    python benchmarks/spoken.py RUN [--split test]

Logistic regression and a support vector machine with an RBF kernel, of scikit-learn, on the mean and the standard
deviation of every mel in each third of a recording; the strength of both is chosen on the validation split.
"""

import argparse
from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from transformer_jax.data.audio import encode_audio
from transformer_jax.runs.run import Run
from transformer_jax.tasks.audio import waveforms_of

KINDS: dict[str, Any] = {
    "logistic regression": lambda strength: LogisticRegression(C=strength, max_iter=2_000),
    "RBF support vector machine": lambda strength: SVC(C=strength),
}


def moments_and_labels(run: Run, split: str) -> tuple[np.ndarray, list[str]]:
    """Of a split, in order."""
    task: Any = run.experiment.task
    examples, _ = run.examples(split)
    rows = []
    for example in examples:
        audio, samples = encode_audio(example["audio"], task.log_mel.sample_rate)
        padded = np.pad(audio, ((0, -len(audio) % 64), (0, 0)))  # few shapes, of which each is compiled
        features, (count,) = task.log_mel(waveforms_of(jnp.asarray(padded[None])), jnp.array([samples]))
        thirds = np.array_split(np.asarray(features[0, :count]), 3)
        rows.append(np.concatenate([moment for third in thirds for moment in (third.mean(axis=0), third.std(axis=0))]))
    return np.stack(rows), [example["label"] for example in examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    run = Run.open(options.run)
    train, validation, test = (moments_and_labels(run, split) for split in ("train", "validation", options.split))
    for name, make in KINDS.items():
        fitted = {
            strength: make_pipeline(StandardScaler(), make(strength)).fit(*train) for strength in (0.01, 0.1, 1, 10)
        }
        best = max(fitted, key=lambda strength: fitted[strength].score(*validation))
        print(f"{name} (C={best:g}): {100 * fitted[best].score(*test):.2f} % accuracy")
    examples, _ = run.examples(options.split)
    found = run.predictor().classify([example["audio"] for example in examples])
    right = sum(one == other for one, other in zip(found, test[1], strict=True))
    print(f"{run.directory}: {100 * right / len(found):.2f} % accuracy")


if __name__ == "__main__":
    main()
