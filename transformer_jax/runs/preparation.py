"""From an experiment to a run that can start: everything that a user can get wrong is found here."""

import contextlib
import fcntl
import math
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.examples import digest, reasons
from transformer_jax.data.fields import changeable, check_ranges
from transformer_jax.data.packing import PackedPlan
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.table import Table
from transformer_jax.data.vocabulary import load_tokenizers, save_tokenizers, train_tokenizers
from transformer_jax.nn.parameters import named_parameters, parameter_axes
from transformer_jax.parallel.distributed import agree, in_turn
from transformer_jax.parallel.mesh import described, make_mesh
from transformer_jax.runs.checkpoint import storable
from transformer_jax.runs.evaluation import Evaluation, encoded_split
from transformer_jax.runs.experiment_file import differences, to_tree, upgrade
from transformer_jax.runs.rehearsal import check_evaluation
from transformer_jax.runs.run import (
    SOURCE,
    VALIDATION,
    Run,
    averaged,
    open_checkpoints,
    read_tree,
    write_experiment,
)
from transformer_jax.runs.warm_start import Origin, fitting, table
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.optimizer import depends_on_steps, untrained
from transformer_jax.training.step import abstract_model, abstract_state, check_batches, fresh_state, make_update

TEXT = "text.fingerprint"
"""File in the run directory: what the training text was."""
LOCK = ".lock"
"""File in the run directory: whoever trains there holds it."""
WRITTEN = (LOCK, TEXT, SOURCE, "cache", "tokenizer")
"""What preparation leaves in a run directory, before the experiment makes it a run."""
MOST_LISTED = 5
"""Changed fields that a refusal names."""


@dataclass(frozen=True)
class Prepared:
    """A run ready to start or to go on."""

    run: Run
    mesh: Mesh
    table: Table
    plan: BatchPlan | PackedPlan
    validation: Evaluation | None
    """Scores models on the validation examples while training."""
    text: str
    """Fingerprint of the text."""
    initial: dict[str, np.ndarray]
    """Parameters of another run to begin from, by name; none where training begins from nothing."""
    lock: IO[str] | None
    """Held by the first process as long as the run may be written to."""


def prepare(experiment: Experiment, file: Path, directory: Path) -> Prepared:
    """Reads the text, makes vocabulary and batches, and writes the run directory; of several processes, the first does.

    Raises ValueError or OSError for anything that cannot work; a directory that was created for it is then removed.
    """
    storable(directory)
    check_train(experiment)
    mesh = make_mesh(experiment.mesh)
    _check_model(experiment, mesh)
    mark = str(agree(secrets.randbelow(2**31)))
    return in_turn(
        lambda: _lead(experiment, file, directory, mesh, mark), lambda: _follow(experiment, directory, mesh, mark)
    )


def _lead(experiment: Experiment, file: Path, directory: Path, mesh: Mesh, mark: str) -> Prepared:
    """Prepares a new run, or one that is there, and holds its lock."""
    resumed = Run.exists(directory)
    if resumed:
        _check_same(experiment, directory)
    created = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    foreign = set(directory.iterdir())
    lock = _lock(directory)
    lock.write(mark)
    lock.flush()
    try:
        return _prepare(experiment, file, directory, mesh, lock, resumed)
    except BaseException:
        lock.close()
        if created:
            shutil.rmtree(directory, ignore_errors=True)
            with contextlib.suppress(OSError):  # Another run may have begun beside this one.
                for folder in created[1:]:
                    folder.rmdir()
        elif not resumed:
            for place in {directory / name for name in WRITTEN} - foreign:
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        raise


def _follow(experiment: Experiment, directory: Path, mesh: Mesh, mark: str) -> Prepared:
    """Opens what the first process has prepared, which has left its mark there."""
    if not Run.exists(directory) or (directory / LOCK).read_text() != mark:
        raise ValueError(f"{directory} of the first process is not seen here; name one that all share, --workdir RUN")
    changed = changes(read_tree(directory), _with_sizes(experiment, directory))
    if changed:
        raise ValueError(f"the first process was started otherwise: {listed(changed)}; start all with the same command")
    return _prepare(experiment, None, directory, mesh, None, resumed=True)


def _prepare(
    experiment: Experiment, file: Path | None, directory: Path, mesh: Mesh, lock: IO[str] | None, resumed: bool
) -> Prepared:
    task, data = experiment.task, experiment.data
    kinds = task.vocabularies(data)
    origin = _origin(experiment, directory)
    if resumed:
        tokenizers = load_tokenizers(data, kinds, directory / "tokenizer")
    else:
        known = origin.tokenizers(data, kinds) if origin else {}
        for tokenizer in {tokenizer.fingerprint: tokenizer for tokenizer in known.values()}.values():
            print(f"vocabulary of {experiment.train.initialize_from}: {tokenizer.vocab_size:,} tokens", flush=True)
        tokenizers = train_tokenizers(data, kinds, lambda: task.readable(data.source.examples("train")), known)
    sizes = {feature: tokenizer.vocab_size for feature, tokenizer in tokenizers.items()}
    experiment = replace(experiment, model=task.resolve(experiment.model, data, sizes))
    cache = Path(data.cache).expanduser() if data.cache else directory / "cache"
    text = _fingerprint(experiment)
    if resumed:
        _check_text(directory, text)
    encoded = encoded_split(experiment, tokenizers, lambda: data.source.examples("train"), "train", text, cache)
    print(encoded.report("train"), flush=True)
    plan = _plan(experiment, encoded)
    run = Run(directory, experiment, tokenizers)
    if file is not None:
        check_evaluation(run)
    validation = _validation(run, mesh, cache)
    if not resumed:
        save_tokenizers(data, kinds, tokenizers, directory / "tokenizer")
    if file is not None:
        (directory / TEXT).write_text(text + "\n", encoding="utf-8")
        write_experiment(directory, experiment, file)
    print(_size(experiment), flush=True)
    if jax.device_count() > 1:
        print(f"mesh: {described(mesh)}, of {jax.device_count()} devices", flush=True)
    initial = origin.parameters() if origin else {}
    if initial:
        copies = fitting(experiment.model, initial)
        print(f"from {experiment.train.initialize_from}:\n{table(experiment.model, initial, copies)}", flush=True)
    return Prepared(run, mesh, encoded, plan, validation, text, initial, lock)


def _size(experiment: Experiment) -> str:
    """How many parameters the model has, and how many of them are trained."""
    line = f"model: {experiment.model.num_parameters():,} parameters"
    model = abstract_model(experiment.model)
    parameters, frozen = named_parameters(model), untrained(experiment.optimizer, parameter_axes(model))
    if not frozen:
        return line
    still = sum(parameters[name].size for name in frozen)
    rank = experiment.optimizer.lora.rank
    return f"{line}, {still:,} of them frozen" + (f", others adapted with rank {rank}" if rank else "")


def _origin(experiment: Experiment, directory: Path) -> Origin | None:
    """The run to begin from; None where there is none, or where this run has begun already."""
    place = experiment.train.initialize_from
    if not place or open_checkpoints(directory, experiment).steps():
        return None
    return Origin.open(place)


def _plan(experiment: Experiment, table: Table) -> BatchPlan | PackedPlan:
    data = experiment.data
    size: dict[str, Any] = {
        "tokens_per_batch": data.tokens_per_batch,
        "batch_multiple": data.batch_multiple,
        "seed": experiment.train.seed,
    }
    if experiment.task.packed:
        return PackedPlan(table.lengths[:, 0], length=data.max_length, **size)
    return BatchPlan(table.lengths, num_buckets=data.num_buckets, **size)


def _validation(run: Run, mesh: Mesh, cache: Path) -> Evaluation | None:
    """What is scored during training; None where the source has no validation split."""
    count = run.experiment.train.validation_examples
    if not count or "validation" not in run.experiment.data.source.splits:
        return None
    examples, skipped = run.examples("validation", count)
    try:
        evaluation = Evaluation(run, examples, mesh, cache)
    except ValueError as error:
        raise ValueError(f"the validation examples cannot be scored: {error}") from error
    if skipped:
        print(f"validation: {len(examples):,} examples; {reasons(skipped)}", flush=True)
    return evaluation


def _check_text(directory: Path, text: str) -> None:
    """Raises ValueError when the training text is not the one that the run began with."""
    if (directory / TEXT).read_text(encoding="utf-8").strip() != text:
        raise ValueError(f"the run in {directory} began with other training text; use another --workdir")


def _fingerprint(experiment: Experiment) -> str:
    """The source's own fingerprint of its training text, or a hash of every example."""
    source = experiment.data.source
    known = source.fingerprint("train")
    return digest(source.examples("train")) if known is None else known


def check_train(experiment: Experiment) -> None:
    """Raises ValueError for fields out of range, and for fields of `train` that contradict each other."""
    check_ranges(experiment)
    train, data = experiment.train, experiment.data
    known = {"loss": "lower", **experiment.task.metrics()}
    if train.best and train.best.removeprefix(VALIDATION) not in known:
        names = [VALIDATION + name for name in known]
        raise ValueError(f"train.best is one of {', '.join(names)}, or empty; not {train.best!r}")
    needed, saved = averaged(train.checkpoint), math.ceil(train.steps / (train.save_every or train.steps))
    if needed > train.keep:
        raise ValueError(
            f"train.checkpoint {train.checkpoint} needs more than the {train.keep} of train.keep; raise it"
        )
    if needed > saved:
        raise ValueError(
            f"train.checkpoint {train.checkpoint} needs more than the {saved} that {train.steps} steps with "
            f"train.save_every {train.save_every} leave; lower train.save_every, or set train.checkpoint to last"
        )
    if train.checkpoint == "best" and not (
        train.best and train.validation_examples and "validation" in data.source.splits
    ):
        raise ValueError(
            "train.checkpoint best needs validation examples, train.validation_examples and train.best; or take last"
        )


def _check_model(experiment: Experiment, mesh: Mesh) -> None:
    """Goes through one training step without data or memory, with a made-up vocabulary: ValueError if it cannot be."""
    task, data, train = experiment.task, experiment.data, experiment.train
    check_batches(experiment, mesh)
    model = task.resolve(experiment.model, data, dict.fromkeys(task.vocabularies(data), 8))
    update = make_update(replace(experiment, model=model))
    abstract_state(model, update.optimizer, mesh, update.frozen)
    state = jax.eval_shape(lambda: fresh_state(model, update.optimizer, train.seed, update.frozen))
    jax.eval_shape(update.step, state, task.abstract_batch(data.batch_multiple, 8), jax.random.key(0))


def _check_same(experiment: Experiment, directory: Path) -> None:
    """Raises ValueError unless the directory holds a run of this experiment, but for fields that may change."""
    experiment = _with_sizes(experiment, directory)
    refused = refused_changes(read_tree(directory), experiment)
    if refused:
        schedule = experiment.optimizer.schedule
        hint = f" (the {schedule} schedule ends there)" if "train.steps" in refused else ""
        raise ValueError(f"{directory} holds a run of another experiment: {refused}{hint}; use another --workdir")


def _with_sizes(experiment: Experiment, directory: Path) -> Experiment:
    """The experiment with what its task fills in, of a run's vocabularies."""
    task, data = experiment.task, experiment.data
    # What the task fills in was saved; where this experiment cannot have it, the comparison says why.
    with contextlib.suppress(ValueError, OSError, KeyError):
        tokenizers = load_tokenizers(data, task.vocabularies(data), directory / "tokenizer")
        sizes = {feature: tokenizer.vocab_size for feature, tokenizer in tokenizers.items()}
        return replace(experiment, model=task.resolve(experiment.model, data, sizes))
    return experiment


def refused_changes(old: dict[str, Any], experiment: Experiment) -> str:
    """The fields in which a saved experiment differs from this one, those that may change left out; empty: none."""
    changed = changes(old, experiment)
    free = tuple(changeable(experiment))
    refused = {
        path: pair for path, pair in changed.items() if not any(f"{path}.".startswith(f"{one}.") for one in free)
    }
    if "train.steps" in changed and depends_on_steps(experiment.optimizer):
        refused["train.steps"] = changed["train.steps"]
    return listed(refused)


def changes(old: dict[str, Any], experiment: Experiment) -> dict[str, tuple[Any, Any]]:
    """The fields in which a saved experiment differs from this one, with both values."""
    changed = differences(upgrade(experiment, old), to_tree(experiment))
    # The sizes of vocabularies are saved resolved.
    return {path: pair for path, pair in changed.items() if not (path.endswith("vocab_size") and pair[1] == 0)}


def listed(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Changed fields on one line."""
    fields = [f"{path} was {was!r}, now {now!r}" for path, (was, now) in sorted(changed.items())]
    more = [f"and {len(fields) - MOST_LISTED} more"] if len(fields) > MOST_LISTED else []
    return "; ".join(fields[:MOST_LISTED] + more)


def _lock(directory: Path) -> IO[str]:
    """The directory's lock, held until it is closed; raises ValueError when another process trains there."""
    file = (directory / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ValueError(f"another process is training in {directory}; wait, or use another --workdir") from None
    return file
