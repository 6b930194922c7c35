"""From an experiment to a run that can start; reports everything that a user can get wrong."""

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
from transformer_jax.data.labels import Labels
from transformer_jax.data.lines import write_whole
from transformer_jax.data.packing import PackedPlan
from transformer_jax.data.pipeline import Plan
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.subword_sampling import resample_all, roomy
from transformer_jax.data.table import EncodedExamples, Table
from transformer_jax.data.vocabulary import load_tokenizers, save_tokenizers, train_tokenizers
from transformer_jax.nn.parameters import named_parameters, parameter_axes
from transformer_jax.parallel.distributed import agree, in_turn
from transformer_jax.parallel.mesh import described, make_mesh
from transformer_jax.runs.checkpoint import EMA, storable
from transformer_jax.runs.evaluation import PROBES, Evaluation, check_evaluation, training_table
from transformer_jax.runs.experiment_file import differences, to_tree, upgrade
from transformer_jax.runs.imported_files import imported_files
from transformer_jax.runs.importing import keep_origin
from transformer_jax.runs.metrics import METRICS, read_metrics
from transformer_jax.runs.result import RESULT
from transformer_jax.runs.run import (
    PUBLISHED,
    SOURCE,
    Run,
    averaged,
    open_checkpoints,
    read_tree,
    write_experiment,
)
from transformer_jax.runs.trackers import VALIDATION, wandb
from transformer_jax.runs.warm_start import Origin, PublishedOrigin, fitting, table
from transformer_jax.training.experiment import Experiment, TrainConfig
from transformer_jax.training.optimizer import depends_on_steps, never_falls, untrained
from transformer_jax.training.step import abstract_model, abstract_state, check_batches, fresh_state, make_update

TEXT = "text.fingerprint"
"""File in the run directory: the fingerprint of the training text."""
LOCK = ".lock"
"""File in the run directory, locked by the process that trains there."""
WRITTEN = (LOCK, PUBLISHED, TEXT, SOURCE, "cache", "tokenizer")
"""Names that preparation adds to a run directory before `experiment.json` makes it a run."""
MOST_LISTED = 5
"""Changed fields that a refusal names."""


@dataclass(frozen=True)
class Prepared:
    """A run ready to start or to go on."""

    run: Run
    mesh: Mesh
    table: Table
    plan: Plan
    validation: Evaluation | None
    """Scores models on the validation examples while training."""
    text: str
    """Fingerprint of the text."""
    origin: Origin | PublishedOrigin | None
    """What the parameters begin from, if not from random numbers."""
    lock: IO[str] | None
    """The lock file, in the first process: while it is open, no other command trains in the directory."""


def prepare(experiment: Experiment, file: Path, directory: Path) -> Prepared:
    """Reads the text, makes vocabulary and batches, and (the first process alone) writes the run directory.

    Raises ValueError or OSError for anything that cannot work, and removes a directory that it created.
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
    """Prepares a new run, or one that exists, and keeps its lock."""
    resumed = Run.exists(directory)
    if resumed:
        _check_same(experiment, directory)
        _check_checkpoints(directory)
    else:
        _check_free(file, directory)
    created = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    foreign = set(directory.iterdir())
    lock = _lock(directory)
    lock.write(mark)
    lock.flush()
    try:
        for leftover in (directory / "cache").glob("*.partial"):  # of a process that was killed: the lock is ours
            leftover.unlink()
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
    """Opens the run that the first process has prepared and marked."""
    if not Run.exists(directory) or (directory / LOCK).read_text() != mark:
        raise ValueError(f"{directory} of the first process is not seen here; name one that all share, --workdir RUN")
    changed = changes(read_tree(directory), _with_sizes(experiment, directory))
    if changed:
        raise ValueError(f"the first process was started otherwise: {listed(changed)}; start all with the same command")
    return _prepare(experiment, None, directory, mesh, None, resumed=True)


def _prepare(
    experiment: Experiment, file: Path | None, directory: Path, mesh: Mesh, lock: IO[str] | None, resumed: bool
) -> Prepared:
    task, data, place = experiment.task, experiment.data, experiment.train.initialize_from
    kinds = task.vocabularies(data)
    # A run that has checkpoints takes nothing more from another.
    origin = Origin.open(place) if place and not open_checkpoints(directory, experiment).steps() else None
    if resumed:
        tokenizers = load_tokenizers(data, kinds, directory / "tokenizer")
    else:
        known = origin.tokenizers(data, kinds) if origin else {}
        for tokenizer in {tokenizer.fingerprint: tokenizer for tokenizer in known.values()}.values():
            print(f"vocabulary of {place}: {tokenizer.vocab_size:,} tokens", flush=True)
        tokenizers = train_tokenizers(data, kinds, lambda: task.readable(data.source.examples("train")), known)
    sizes = {feature: tokenizer.vocab_size for feature, tokenizer in tokenizers.items()}
    experiment = replace(experiment, model=task.resolve(experiment.model, data, sizes))
    known_text = data.source.fingerprint("train")
    text = digest(data.source.examples("train")) if known_text is None else known_text
    if resumed and (began := (directory / TEXT).read_text(encoding="utf-8").strip()) != text:
        known = f"{directory / TEXT} has {began or 'nothing'}, not {text}"
        raise ValueError(f"the run in {directory} began with other training text ({known}); use another --workdir")
    run = Run(directory, experiment, tokenizers)
    encoded = training_table(run, text)
    labels = tokenizers.get("label")
    print(encoded.report("train", labels.vocab_size if isinstance(labels, Labels) else 0), flush=True)
    if experiment.data.subword_sampling:
        _check_sampling(run, encoded)
    plan = _plan(experiment, encoded)
    if experiment.train.save_every == "epoch":
        _check_saved(experiment.train, plan.batches_per_epoch)
    validation = None
    for split in data.source.splits:
        if split == "validation":
            validation = _validation(run, mesh)
        elif split != "train" and file is not None:
            check_evaluation(run, split)
    if not resumed:
        save_tokenizers(data, kinds, tokenizers, directory / "tokenizer")
        write_whole(directory / TEXT, f"{text}\n".encode())
        if isinstance(origin, PublishedOrigin):
            keep_origin(place, origin.published.directory, directory / PUBLISHED)
    if file is not None:
        (directory / RESULT).unlink(missing_ok=True)  # of what this experiment was, before it is another
        write_experiment(directory, experiment, file)
    print(_size(experiment), flush=True)
    if warning := never_falls(experiment.optimizer, experiment.train.steps):
        print(f"warning: {warning}", flush=True)
    if jax.device_count() > 1:
        print(f"mesh: {described(mesh)}, of {jax.device_count()} devices", flush=True)
    if origin is not None:
        old = origin.shapes()
        listing = table(experiment.model, old, fitting(experiment.model, old))
        print(f"from {place}{origin.more_taken(experiment.model)}:\n{listing}", flush=True)
    return Prepared(run, mesh, encoded, plan, validation, text, origin, lock)


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


def _plan(experiment: Experiment, table: Table) -> Plan:
    data = experiment.data
    size: dict[str, Any] = {"tokens_per_batch": data.tokens_per_batch, "batch_multiple": data.batch_multiple}
    size["seed"] = experiment.train.seed
    if experiment.task.packed:
        return PackedPlan(table.lengths[:, 0], length=data.max_length, **size)
    return BatchPlan(_lengths(experiment, table), num_buckets=data.num_buckets, **size)


def _lengths(experiment: Experiment, table: Table) -> np.ndarray:
    """Those of the table's columns, with room for texts that are cut anew."""
    data, anew = experiment.data, experiment.task.resampled
    if not data.subword_sampling:
        return table.lengths
    batched = [name for name, column in table.columns.items() if column.batched]
    return roomy(table.lengths, [data.sampling_room if name in anew else 1.0 for name in batched], data.max_length)


def _check_sampling(run: Run, table: Table) -> None:
    """Raises ValueError if the task or its vocabularies cannot cut texts into other tokens."""
    data, task = run.experiment.data, run.experiment.task
    if not task.resampled:
        raise ValueError(f"{type(task).__name__} has no data.subword_sampling; set it to 0")
    rows = np.arange(min(len(table), PROBES))
    batch = {"example": rows.astype(np.int32), **table.batch(rows, table.lengths[rows].max(axis=0).tolist())}
    resample_all(batch, task.resampled, run.tokenizers, alpha=data.subword_sampling, seed=0, epoch=0)


def _validation(run: Run, mesh: Mesh) -> Evaluation | None:
    """Checks all validation examples; returns the evaluation during training, if it has any."""
    examples, skipped = check_evaluation(run, "validation")
    if skipped:
        print(f"validation: {len(examples):,} examples; {reasons(skipped)}", flush=True)
    count = run.experiment.train.validation_examples
    return Evaluation(run, EncodedExamples(examples[:count], examples.table), mesh) if count else None


def check_train(experiment: Experiment) -> None:
    """Raises ValueError for fields out of range, and for fields of `train` that contradict each other."""
    check_ranges(experiment)
    train, data = experiment.train, experiment.data
    known = {"loss": "lower", **experiment.task.metrics()}
    if train.best and train.best.removeprefix(VALIDATION) not in known:
        names = [VALIDATION + name for name in known]
        raise ValueError(f"train.best is one of {', '.join(names)}, or empty; not {train.best!r}")
    if averaged(train.checkpoint) > train.keep:
        raise ValueError(f"train.checkpoint {train.checkpoint} needs more than train.keep {train.keep}; raise that")
    if len({*train.log_to}) < len(train.log_to):
        raise ValueError(f"train.log_to names one twice: {' '.join(train.log_to)}")
    if "wandb" in train.log_to:
        wandb()
    if train.checkpoint == EMA and not experiment.optimizer.ema:
        raise ValueError("train.checkpoint ema needs optimizer.ema, such as 0.999")
    if train.save_every != "epoch":
        _check_saved(train, train.save_every)
    scored = train.best and train.validation_examples and "validation" in data.source.splits
    if train.checkpoint == "best" and not scored:
        raise ValueError("train.checkpoint best needs validation examples, train.validation_examples and train.best")
    if train.patience and not (scored and train.evaluate_every):
        raise ValueError(
            "train.patience needs validation examples, train.validation_examples, train.evaluate_every and train.best"
        )


def _check_saved(train: TrainConfig, save_every: int) -> None:
    """Raises ValueError if a checkpoint every so many steps leaves too few to average."""
    saved = math.ceil(train.steps / (save_every or train.steps))
    if averaged(train.checkpoint) > saved:
        raise ValueError(
            f"train.checkpoint {train.checkpoint} needs more than the {saved} that {train.steps} steps with "
            f"train.save_every {train.save_every} leave; set train.checkpoint to average:{saved} or last, or "
            f"{'raise train.steps' if train.save_every == 'epoch' else 'lower train.save_every'}"
        )


def _check_model(experiment: Experiment, mesh: Mesh) -> None:
    """Traces one training step without data or memory, with a made-up vocabulary; ValueError if it cannot be made."""
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


def _check_checkpoints(directory: Path) -> None:
    """Raises ValueError where the metrics of a run go beyond its first checkpoint, and there is none, not even damaged.

    Training would begin anew and drop those metrics.
    """
    rows = read_metrics(directory)
    made = max((row["step"] for row in rows), default=0)
    folder, train = directory / "checkpoints", read_tree(directory)["train"]
    # Metrics are written before the checkpoint of their step, which a killed process may not have begun.
    epoch = round(rows[-1]["step"] / rows[-1]["epoch"]) if rows and rows[-1].get("epoch") else 0
    save_every = epoch if train["save_every"] == "epoch" else train["save_every"]
    first = min(filter(None, (save_every, train["stop_after"], train["steps"] - 1)), default=0)
    if made > first and not (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(
            f"the run in {directory} made {made:,} steps, but {folder} has no checkpoint; is its disk mounted? "
            f"To start anew, remove {directory / METRICS}"
        )


def _check_free(file: Path, directory: Path) -> None:
    """Raises ValueError where a new run would overwrite files that are no run's, or take their checkpoints for its."""
    ours = {"checkpoints": file}
    if not (directory / LOCK).exists():  # which a preparation that was killed leaves
        here = file.parent.absolute()
        ours |= {str(place.relative_to(here)): place for place in imported_files(file).values()}
        ours |= dict.fromkeys((PUBLISHED, SOURCE, METRICS, "tokenizer"), file)
    for place, origin in ((directory / name, origin) for name, origin in ours.items()):
        if place.exists() and not (place.samefile(origin) or place.is_dir() and not any(place.iterdir())):
            raise ValueError(f"{place} is there, but no experiment.json of a run beside it; use another --workdir")


def _with_sizes(experiment: Experiment, directory: Path) -> Experiment:
    """The experiment with the model's sizes that follow from a run's vocabularies."""
    task, data = experiment.task, experiment.data
    # A saved experiment has these sizes; if they cannot be computed, the comparison says why.
    with contextlib.suppress(ValueError, OSError, KeyError):
        tokenizers = load_tokenizers(data, task.vocabularies(data), directory / "tokenizer")
        sizes = {feature: tokenizer.vocab_size for feature, tokenizer in tokenizers.items()}
        return replace(experiment, model=task.resolve(experiment.model, data, sizes))
    return experiment


def is_same(experiment: Experiment, directory: Path) -> bool:
    """Whether the run in the directory is of this experiment to the last field."""
    return not changes(read_tree(directory), _with_sizes(experiment, directory))


def refused_changes(old: dict[str, Any], experiment: Experiment) -> str:
    """The fields in which a saved experiment differs from this one, those that may change left out; empty: none."""
    changed = changes(old, experiment)
    free = tuple(changeable(experiment))
    fixed = [path for path in changed if not any(f"{path}.".startswith(f"{one}.") for one in free)]
    refused = {path: changed[path] for path in fixed}
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
    """Locks the directory until the file is closed; raises ValueError when another process trains there."""
    file = (directory / LOCK).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ValueError(f"another process is training in {directory}; wait, or use another --workdir") from None
    file.truncate(0)
    return file


def in_use(directory: Path) -> bool:
    """Whether another process is training in the directory."""
    if not (directory / LOCK).exists():
        return False
    with (directory / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
