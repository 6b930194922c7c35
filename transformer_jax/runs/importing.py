"""Published models become runs."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformer_jax.data.lines import is_inside
from transformer_jax.data.tokenizers import write_whole
from transformer_jax.data.vocabulary import save_tokenizers
from transformer_jax.interop.hub import local_directory
from transformer_jax.interop.published import open_published
from transformer_jax.parallel.mesh import MeshConfig, local_mesh
from transformer_jax.runs.experiment_file import experiment_source
from transformer_jax.runs.published_run import experiment_for
from transformer_jax.runs.run import PUBLISHED, SOURCE, Run, open_checkpoints, write_experiment
from transformer_jax.training.step import abstract_model, model_shardings

ORIGIN = "origin.json"
KEPT = ("*.json", "*.md", "*.txt", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""Files of a published model that are kept beside the run, where they are small."""
LARGEST_KEPT = 1_000_000


def import_run(place: str | Path, target: Path, *, dtype: str = "float32", ignore: Collection[str] = ()) -> Run:
    """Writes a run directory whose one checkpoint, of step 0, has the parameters of a published model, in float32.

    The model is in a directory, has a name on the hub, or is a GGUF file. `dtype` becomes `model.dtype`. Raises
    ValueError or OSError, and leaves nothing behind, where that cannot be.
    """
    if target.exists():
        raise ValueError(f"{target} is there already; choose another directory")
    published = open_published(local_directory(str(place)), dtype=dtype, ignore=ignore)
    experiment, vocabularies = experiment_for(published, ignore=ignore)
    # Where it was read from is no part of the run.
    tokenizer: Any = dataclasses.replace(experiment.data.tokenizer, **{"path": ""})
    experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, tokenizer=tokenizer))
    data, kinds = experiment.data, experiment.task.vocabularies(experiment.data)
    sizes = {feature: vocabulary.vocab_size for feature, vocabulary in vocabularies.items()}
    experiment = dataclasses.replace(experiment, model=experiment.task.resolve(experiment.model, data, sizes))
    target.mkdir(parents=True)
    try:
        origin = keep_origin(str(place), published.directory, target / PUBLISHED)
        save_tokenizers(data, kinds, vocabularies, target / "tokenizer")
        (target / SOURCE).write_text(experiment_source(experiment, origin["name"]), encoding="utf-8")
        fingerprints = {feature: vocabulary.fingerprint for feature, vocabulary in vocabularies.items()}
        with open_checkpoints(target, experiment) as checkpoints:
            state = {"imported": origin, "tokenizers": fingerprints}
            where = model_shardings(abstract_model(published.config), local_mesh(MeshConfig()))
            checkpoints.save(0, model=published.parameters(where), optimizer={}, state=state)
        write_experiment(target, experiment, target / SOURCE)
        return Run.open(target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def keep_origin(place: str, directory: Path, target: Path) -> dict[str, Any]:
    """Copies configuration, model card and licence; returns (and writes) the name and the hashes of all files.

    `place` is what was asked for, `directory` where its files are. Of a GGUF file, the hash is its own.
    """
    target.mkdir()
    asked = Path(place).expanduser()
    sources = [asked] if asked.is_file() else [path for path in sorted(directory.iterdir()) if path.is_file()]
    files = {path.name: _sha256(path) for path in sources}
    for path in sorted({path for pattern in KEPT for path in directory.glob(pattern) if path.is_file()}):
        if is_inside(path, directory) and path.stat().st_size <= LARGEST_KEPT:
            shutil.copyfile(path, target / path.name)
    origin: dict[str, Any] = {"name": asked.resolve().name if asked.exists() else place, "sha256": files}
    if not asked.exists():  # a name on the hub, whose directory is called as its revision
        origin["revision"] = directory.name
    write_whole(target / ORIGIN, json.dumps(origin, indent=1).encode())
    return origin


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
