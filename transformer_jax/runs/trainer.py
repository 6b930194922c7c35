"""The training loop: batches in, checkpoints and metrics out."""

import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from transformer_jax.nn.parameters import named_parameters, partition, replace_parameters
from transformer_jax.parallel.distributed import Agreement, is_first, leave
from transformer_jax.runs.checkpoint import Checkpoints
from transformer_jax.runs.experiment_file import to_tree
from transformer_jax.runs.interrupts import Interrupted, Interrupts
from transformer_jax.runs.metrics import MetricsLog, read_metrics
from transformer_jax.runs.patience import Patience
from transformer_jax.runs.preparation import Prepared, refused_changes
from transformer_jax.runs.profiling import Profiler
from transformer_jax.runs.run import open_checkpoints
from transformer_jax.runs.trackers import VALIDATION
from transformer_jax.runs.warm_start import fitting, with_copies
from transformer_jax.tasks.task import COUNTS
from transformer_jax.training.experiment import Interval
from transformer_jax.training.means import Means
from transformer_jax.training.step import TrainState, abstract_state, device_batches, init_state, make_update
from transformer_jax.training.throughput import Throughput

DROPOUT = 2**31 - 1
"""Folded into the key of `train.seed` for dropout; smaller numbers are folded into it for parameters."""


def train(prepared: Prepared, *, profile: bool = False) -> bool:
    """Trains from the newest checkpoint, or from the beginning, to `train.steps`; False if it stopped before.

    With `profile` a few steps are traced for XProf. Raises SystemExit with 143 or 130 after saving when SIGTERM or
    Ctrl-C came, and FloatingPointError at the step whose loss or gradient is not finite, before any checkpoint.
    """
    agree = Agreement(prepared.mesh) if jax.process_count() > 1 else None
    # Read before the mesh is set, because another run's parameters are on devices of their own.
    initial = prepared.origin.parameters() if prepared.origin else {}
    with jax.set_mesh(prepared.mesh), Interrupts(agree) as interrupts:
        trainer = Trainer(prepared, interrupts, initial, profile=profile)
        finished = trainer.run()
    if interrupts.signal is not None:
        leave()
        raise SystemExit(128 + interrupts.signal)  # as shells report it
    return finished


class Trainer:
    """One run in progress; `run` has the order of events at a step."""

    def __init__(
        self, prepared: Prepared, interrupts: Interrupts, initial: dict[str, np.ndarray], *, profile: bool = False
    ):
        self.prepared = prepared
        self.initial = initial
        """Parameters to begin from, which are let go once they are copied."""
        self.experiment = prepared.run.experiment
        self.config = self.experiment.train
        self.interrupts = interrupts
        self.profile = profile
        self.optimizer, self.frozen, self.update, self.flops = make_update(self.experiment)
        # The same seed gives the parameters, from the key itself and small numbers folded into it.
        self.key = jax.random.fold_in(jax.random.key(self.config.seed, impl=self.config.random_bits), DROPOUT)
        dtype = getattr(self.experiment.model, "dtype", "float32")
        self.throughput = Throughput(prepared.mesh.devices.flat, dtype)
        self.means = Means()
        self.start, self.compiled = 0, set[tuple[tuple[str, tuple[int, ...]], ...]]()
        self.evaluated = set[bool]()
        self.patience = Patience(self.experiment)

    def run(self) -> bool:
        """Makes steps, each followed by what is due: a row of metrics, an evaluation, a checkpoint.

        The metrics of a step are fetched after the next one has been dispatched, so that the device never waits; all
        are fetched and checked before an evaluation or a checkpoint.
        """
        steps, seed, task = self.config.steps, self.config.seed, self.experiment.task
        run, table, plan, mesh = self.prepared.run, self.prepared.table, self.prepared.plan, self.prepared.mesh
        last = min(steps, self.config.stop_after or steps)
        with open_checkpoints(run.directory, self.experiment) as checkpoints:
            rows = read_metrics(run.directory)
            state, start = self._restore(checkpoints, rows)
            self.start = start
            unscored = self._unscored(start, rows)
            if start >= last and unscored is None:
                what = "finished" if start >= steps else "stopped as train.stop_after says"
                print(f"this run has {what}: {start} of {steps} steps", flush=True)
                return start >= steps
            if self.patience.exhausted:
                print(f"this run has finished: {self.patience}; a higher train.patience goes on", flush=True)
                return True
            with MetricsLog(
                run.directory,
                total_steps=steps,
                resume_step=start,
                enabled=is_first(),
                log_to=self.config.log_to,
                experiment=to_tree(self.experiment),
            ) as log:
                waiting: tuple[int, Mapping[str, Array]] | None = None
                profiler = Profiler(run.directory, start, enabled=self.profile)
                drawn: dict[str, Any] = {"seed": seed, "subword_sampling": self.experiment.data.subword_sampling}
                batches = device_batches(task, run.tokenizers, table, plan, mesh, start=start, stop=last, **drawn)
                if unscored is not None:
                    log.amend(unscored | self._evaluate(log, state, start))
                    self.interrupts.check()
                    if self.interrupts.signal is not None or start >= last or self.patience.exhausted:
                        return self.interrupts.signal is None and (start >= steps or self.patience.exhausted)
                self.throughput.resume()
                self.interrupts.check()
                for step, batch in enumerate(batches, start + 1):
                    if step == start + 1 and self.interrupts.signal is not None:  # a compilation may take minutes
                        log.message(f"stopped before step {step:,}; the same command goes on from there")
                        return False
                    self.throughput.add(self.flops, state, batch, self.key)
                    profiler.before(step - 1)
                    unseen = self._unseen(batch)
                    if unseen and waiting is not None:  # its row need not wait for a compilation
                        self._record(log, *waiting)
                        waiting = None
                    with self._compiling(log, unseen) if unseen else nullcontext():
                        state, metrics = self.update(state, batch, self.key)
                    if waiting is not None:
                        self._record(log, *waiting)
                    waiting = step, metrics
                    self.interrupts.check()
                    ending = step == last or self.interrupts.signal is not None
                    profiler.after(step - 1, metrics, last=ending)
                    if ending or self._due(step, self.config.evaluate_every) or self._due(step, self.config.save_every):
                        save = partial(self._save, checkpoints, state, step)
                        scores = self._pause(log, state, *waiting, save)
                        waiting = None
                        ending = ending or self.interrupts.signal is not None or self.patience.exhausted
                        if ending or self._due(step, self.config.save_every):
                            save(scores)
                        if self.patience.exhausted:
                            log.message(f"finished and saved at step {step:,}: {self.patience}")
                        elif ending and step < steps:
                            log.message(f"stopped and saved at step {step:,}; the same command goes on from there")
                        self.throughput.resume()
                    if ending:
                        break
        return step >= steps or self.patience.exhausted

    @contextmanager
    def _compiling(self, log: MetricsLog, shapes: str) -> Iterator[None]:
        """Announces a compilation, which is no part of the speed; the call of a compiled step would return at once."""
        self.throughput.pause()
        with log.announced(f"compiling a step of {shapes}", "compiled"):
            yield
        self.throughput.resume()

    def _unseen(self, batch: Mapping[str, Array]) -> str:
        """The shapes of a batch that need a program of their own, in words; empty if it is compiled already."""
        shapes = tuple((name, array.shape) for name, array in batch.items())
        if shapes in self.compiled:
            return ""
        self.compiled.add(shapes)
        sizes = [f"{name} {'x'.join(map(str, shape[1:]))}" for name, shape in shapes if len(shape) > 1]
        return f"{shapes[0][1][0]} rows, {', '.join(sizes)}"

    def _pause(
        self, log: MetricsLog, state: TrainState, step: int, metrics: Mapping[str, Array], save: Callable[[], None]
    ) -> dict[str, Any]:
        """Fetches and writes the step's row, evaluated if that is due; returns the scores, none after a signal.

        Calls `save` before an error of the evaluation is raised.
        """
        if not self._evaluated(step) or self.interrupts.signal is not None:
            self._record(log, step, metrics)
            self.throughput.pause()
            return {}
        self._fetch(step, metrics)
        row = self._row(step, metrics)
        self.throughput.pause()
        try:
            scores = self._evaluate(log, state, step)
        except Exception:
            log.write(row | {f"{VALIDATION}loss": math.nan})  # or it would be tried, and fail, when the run goes on
            save()  # training is not lost with the scores
            raise
        log.write(row | scores)
        return scores

    def _evaluate(self, log: MetricsLog, state: TrainState, step: int) -> dict[str, Any]:
        """The scores of the validation examples; none after a signal."""
        assert self.prepared.validation is not None
        predictions, first = self._predicted(step), nullcontext()
        if predictions not in self.evaluated:  # it compiles
            begins = f"evaluating for the first time, {'with' if predictions else 'without'} predictions"
            first = log.announced(begins, "evaluated")
        self.evaluated |= {predictions, False}
        try:
            with first, self.interrupts.giving_up():
                found = self.prepared.validation(state.model, predictions=predictions)
        except Interrupted:
            return {}
        scores = {
            VALIDATION + name: float(value)
            for name, value in found.items()
            if isinstance(value, numbers.Real) and name not in COUNTS
        }
        self.patience.add(scores)
        return scores

    def _evaluated(self, step: int) -> bool:
        """Whether the validation examples are scored after this step."""
        due = self._due(step, self.config.evaluate_every) or step == self.config.steps
        return due and self.prepared.validation is not None

    def _unscored(self, step: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The row of metrics of a step whose evaluation was interrupted; None for any other."""
        if not step or not self._evaluated(step):
            return None
        row = next((row for row in rows if row["step"] == step), {"step": step})
        if any(name.startswith(VALIDATION) for name in row):
            return None
        return {name: math.nan if value is None else value for name, value in row.items()}

    def _record(self, log: MetricsLog, step: int, metrics: Mapping[str, Array]) -> None:
        self._fetch(step, metrics)
        if self._due(step, self.config.log_every) or step in (1, self.config.steps):
            log.write(self._row(step, metrics))
        elif step == self.start + 1:  # a sign of life; the row will be that of a run that was never stopped
            shown = ("loss", "gradient_norm", "learning_rate")
            log.show({"step": step} | {name: float(metrics[name]) for name in shown})

    def _row(self, step: int, metrics: Mapping[str, Array]) -> dict[str, Any]:
        """The row of the steps since the one before."""
        means = self.means.row() | {"learning_rate": float(metrics["learning_rate"])}
        epoch = step / self.prepared.plan.batches_per_epoch
        return {"step": step, "epoch": epoch, **means, **self.throughput.lap()}

    def _fetch(self, step: int, metrics: Mapping[str, Array]) -> None:
        """Waits for the metrics of a step and adds them up; FloatingPointError for a loss or gradient not finite."""
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                raise FloatingPointError(
                    f"{name} is {values[name]} at step {step}, which reaches no checkpoint; a lower "
                    "optimizer.learning_rate, a longer optimizer.warmup_steps or optimizer.clip_norm may help"
                )
        self.throughput.tokens += values["tokens"]
        self.means.add(values)

    def _save(
        self, checkpoints: Checkpoints, state: TrainState, step: int, scores: Mapping[str, float] | None = None
    ) -> None:
        checkpoints.save(
            step,
            model=named_parameters(state.model),
            optimizer=named_leaves(state.optimizer),
            state=self._facts() | {"means": self.means.state()},
            metrics=scores or None,
        )

    def _facts(self) -> dict[str, Any]:
        """The part of a checkpoint that is no array."""
        return {
            "key": jax.random.key_data(self.key).tolist(),
            "tokenizers": {name: tokenizer.fingerprint for name, tokenizer in self.prepared.run.tokenizers.items()},
            "text": self.prepared.text,
            "experiment": to_tree(self.experiment),
        }

    def _restore(self, checkpoints: Checkpoints, rows: Sequence[dict[str, Any]]) -> tuple[TrainState, int]:
        """The state of the newest whole checkpoint, or a fresh one."""
        config, mesh = self.experiment.model, self.prepared.mesh
        fresh = abstract_state(config, self.optimizer, mesh, self.frozen)
        leaves = named_leaves(fresh.optimizer)
        newest = checkpoints.restore_latest(model=named_parameters(fresh.model), optimizer=leaves)
        if newest is None:
            print("drawing the first parameters", flush=True)
            return self._initialized(init_state(config, self.optimizer, self.config.seed, mesh, self.frozen)), 0
        refused = refused_changes(newest.state["experiment"], self.experiment)
        if refused:
            raise ValueError(f"the checkpoint of step {newest.step} is of another experiment: {refused}")
        expected = self._facts()
        for name in ("tokenizers", "text"):
            if newest.state[name] != expected[name]:
                raise ValueError(f"checkpoint {newest.step} was trained on other {name}; use another --workdir")
        saved = newest.optimizer or {}
        optimizer = jax.tree.unflatten(jax.tree.structure(fresh.optimizer), [saved[name] for name in leaves])
        self.means = Means(newest.state.get("means"))
        for row in rows:
            if row["step"] <= newest.step:
                self.patience.add(row)
        print(f"going on from step {newest.step:,}", flush=True)
        step = jax.device_put(np.int32(newest.step), fresh.step.sharding)
        return TrainState(replace_parameters(fresh.model, newest.model), optimizer, step), newest.step

    def _initialized(self, state: TrainState) -> TrainState:
        """The state before the first step, with the parameters that are copied from another run."""
        old = self.initial
        if not old:
            return state
        copies = fitting(self.experiment.model, old)
        where = jax.tree.map(lambda leaf: leaf.sharding, state)
        new = jax.device_put(with_copies(named_parameters(state.model), old, copies), named_parameters(where.model))
        old.clear()
        # An optimizer may keep a copy of the first parameters.
        init = jax.jit(self.optimizer.init, out_shardings=where.optimizer)
        optimizer = init(partition(new, self.frozen)[0])
        return TrainState(replace_parameters(state.model, new), optimizer, state.step)

    def _interval(self, every: Interval) -> int:
        """The number of steps."""
        return self.prepared.plan.batches_per_epoch if every == "epoch" else every

    def _due(self, step: int, every: Interval) -> bool:
        steps = self._interval(every)
        return steps > 0 and step % steps == 0

    def _predicted(self, step: int) -> bool:
        """Whether the evaluation after this step makes predictions."""
        if step == self.config.steps:
            return True
        return step // self._interval(self.config.evaluate_every) % self.config.predict_every == 0


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of dictionaries and tuples by name, such as `0/mu/embedding/table`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
