"""Runs become published models, or programs for other runtimes."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.data.labels import Labels
from transformer_jax.data.lines import read_json
from transformer_jax.data.published_tokenizer import PublishedTokenizer
from transformer_jax.data.subwords import SubwordTokenizer
from transformer_jax.data.tokenizers import Tokenizer, write_whole
from transformer_jax.data.vocabulary import Vocabulary
from transformer_jax.interop.published import CONFIG, open_published, write_published
from transformer_jax.interop.stablehlo import export_programs
from transformer_jax.interop.tensor_files import Tensor, write_directory
from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.models.encoder_only import EncoderOnlyConfig
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.runs.importing import ORIGIN
from transformer_jax.runs.published_generation import FILE as GENERATION
from transformer_jax.runs.published_run import experiment_for
from transformer_jax.runs.run import PUBLISHED, Run, Steps, published_directory
from transformer_jax.runs.sentence_files import write_pooling
from transformer_jax.tasks.question_answering import QuestionAnswering
from transformer_jax.tasks.text_vectors import TextVectors
from transformer_jax.training.experiment import Experiment


def export(
    model: Any, directory: str | os.PathLike[str], *, like: str | os.PathLike[str], dtype: str | None = None
) -> str:
    """Writes a model as `transformers` reads it, with the tokenizer and settings of the place that it was loaded from.

    `like` is that place: a directory or hub name of a published model, or a run. `dtype` None is that of `like`.
    Returns the architecture; raises ValueError where no family can express the model, and for a directory that is not
    empty.
    """
    target, place = Path(directory), published_directory(str(like))
    if place is None:
        return export_run(Run.open(like), target, dtype=dtype or None, model=model)
    published = open_published(place)
    experiment, vocabularies = experiment_for(published)
    _check_empty(target)
    with _removed_on_error(target):
        architecture = _write_model(target, experiment, model, vocabularies, place, dtype=dtype)
        card = _card(target, f"`{architecture}`, written by transformer_jax.", Path(like).name)
        (target / "README.md").write_text(card, encoding="utf-8")
    return architecture


def export_run(
    run: Run,
    directory: Path,
    *,
    checkpoint: str | None = None,
    family: str = "",
    dtype: str | None = None,
    model: Any = None,
) -> str:
    """Writes a run's model as `transformers` reads it, with its tokenizer and a model card; returns the architecture.

    `dtype` None: as it was published, if the run was imported, otherwise float32. `model` None: that of the
    checkpoint. Raises ValueError where no family that is known can express the model, and for a directory that is not
    empty.
    """
    _check_empty(directory)
    steps = run.checkpoint_steps(checkpoint)
    # Fine-tuned from a published model, it has another head than that one.
    origin = None if run.experiment.train.initialize_from else run.directory / PUBLISHED
    model = run.model_of(steps) if model is None else model
    with _removed_on_error(directory):
        architecture = _write_model(directory, run.experiment, model, run.tokenizers, origin, family, dtype)
        (directory / "README.md").write_text(model_card(run, steps, architecture), encoding="utf-8")
    return architecture


def _write_model(
    directory: Path,
    experiment: Experiment,
    model: Any,
    vocabularies: Mapping[str, Vocabulary],
    origin: Path | None,
    family: str = "",
    dtype: str | None = None,
) -> str:
    """Writes tensors, configuration, tokenizer and the published model's generation defaults; returns the architecture.

    `origin` is the directory with the published model's own files, where it has the same head.
    """
    keys = read_json(origin / CONFIG) if origin and (origin / CONFIG).is_file() else {}
    dtype = dtype or keys.get("dtype") or keys.get("torch_dtype")
    task, config = experiment.task, experiment.model
    tokenizer = next((kind for kind in vocabularies.values() if isinstance(kind, Tokenizer)), None)
    answers = "ForQuestionAnswering" if isinstance(task, QuestionAnswering) else ""
    architecture = write_published(
        directory,
        config,
        named_parameters(model),
        family=family or keys.get("model_type", ""),
        architecture=(keys.get("architectures") or [answers])[0],
        labels=next((kind.names for kind in vocabularies.values() if isinstance(kind, Labels)), ()),
        dtype=np.dtype(_numpy_type(dtype)) if dtype else None,
        extra=_token_ids(tokenizer, keys),
    )
    if tokenizer is not None:
        write_tokenizer(tokenizer, directory, config)
    if isinstance(task, TextVectors):
        write_pooling(directory, task, config.d_model, experiment.data.max_length)
    if origin and (origin / GENERATION).is_file():
        shutil.copyfile(origin / GENERATION, directory / GENERATION)
    return architecture


def export_stablehlo(run: Run, directory: Path, length: int, *, checkpoint: str | None = None) -> list[str]:
    """Writes a run's model as programs for texts of `length` tokens, its parameters by our names, and its tokenizer.

    Returns the names of the files. Raises ValueError for a directory that is not empty.
    """
    _check_empty(directory)
    parameters = named_parameters(run.model_of(run.checkpoint_steps(checkpoint)))
    config = run.experiment.model
    reach, prompted = config.reach(), isinstance(config, DecoderOnlyConfig)
    new_tokens = length if reach is None else max(min(length, reach - length * prompted), 1)
    programs = export_programs(config, length, new_tokens=new_tokens)
    try:
        contents = {f"{name}.stablehlo": program.serialize() for name, program in programs.items()}
    except ImportError as error:
        raise ValueError("programs are written with flatbuffers, which the extra stablehlo installs") from error
    with _removed_on_error(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (directory / name).write_bytes(content)
        write_directory(directory, {name: _tensor(value) for name, value in parameters.items()})
        facts: dict[str, Any] = {"task": type(run.experiment.task).__name__, "length": length, "new_tokens": new_tokens}
        for feature, tokenizer in run.tokenizers.items():
            if isinstance(tokenizer, Tokenizer):
                tokenizer.save(directory, feature)
                facts[feature] = {"start": tokenizer.bos_id, "end": tokenizer.eos_id, "padding": tokenizer.pad_id}
            else:
                facts[feature] = tokenizer.names
        (directory / "programs.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return sorted(path.name for path in directory.iterdir())


def _tensor(value: Any) -> Tensor:
    return Tensor(np.dtype(np.float32), value.shape, lambda: np.asarray(value, np.float32))


@contextlib.contextmanager
def _removed_on_error(directory: Path) -> Iterator[None]:
    """Leaves nothing in a directory, which was empty, of what could not be written to its end."""
    try:
        yield
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _check_empty(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty; choose another directory")


def _numpy_type(name: str) -> Any:
    """A NumPy type by its name; ValueError for one that has no place in such a file."""
    import ml_dtypes

    types = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    if not isinstance(name, str) or name not in types:
        raise ValueError(f"a published model's dtype is {', '.join(types)}, not {name}")
    return types[name]


def _token_ids(tokenizer: Vocabulary | None, origin: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of config.json that name special tokens: those of the original, or of the run's tokenizer."""
    if origin:
        return {name: value for name, value in origin.items() if name.endswith("token_id")}
    if not isinstance(tokenizer, Tokenizer):
        return {}
    return {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}


def write_tokenizer(tokenizer: Tokenizer, directory: Path, config: Any) -> None:
    """Writes a tokenizer as it is published, with the special tokens that texts get for a model of this kind."""
    if isinstance(tokenizer, PublishedTokenizer):
        tokenizer.write_published(directory)
    elif isinstance(tokenizer, SubwordTokenizer):
        around = {EncoderOnlyConfig: (True, True), DecoderOnlyConfig: (True, False)}.get(type(config), (False, True))
        tokenizer.write_published(directory, *around, max_length=config.reach())
    else:
        write_whole(directory / f"tokenizer{tokenizer.suffix}", tokenizer.content)


def model_card(run: Run, steps: Steps, architecture: str) -> str:
    """What the model is and where it came from, as Markdown."""
    task, step = type(run.experiment.task).__name__, str(steps)
    path = run.directory / PUBLISHED / ORIGIN
    what = (
        f"`{architecture}` with {run.experiment.model.num_parameters():,} parameters, written by transformer_jax from "
        f"step {step} of the task {task}."
    )
    return _card(run.directory, what, read_json(path)["name"] if path.is_file() else "")


def _card(directory: Path, what: str, source: str) -> str:
    lines = ["---", "library_name: transformers", "---", f"# {directory.resolve().name}", "", what]
    if source:
        lines += ["", f"Its weights began as those of `{source}`; that model's card and licence apply."]
    return "\n".join([*lines, ""])
