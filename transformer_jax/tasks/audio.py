"""Tasks of sound: from recordings to the log-mel features that a model reads."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le, Lt
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from transformer_jax.data.audio import TooLong, encode_audio, packages
from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.examples import Kind, Unreadable, decodable
from transformer_jax.data.sources import Example
from transformer_jax.models.config import Encoded
from transformer_jax.nn.inputs import Frames
from transformer_jax.nn.log_mel import Counts, Features, LogMel, Waveforms
from transformer_jax.tasks.predictor import Predictor, decoded
from transformer_jax.tasks.task import Task, Tokenizers

Recording = str | os.PathLike[str] | bytes | np.ndarray
"""The name of a file, its bytes, or samples at the task's rate: integers of 16 bits, or floats between -1 and 1."""
Draws = Float[Array, "batch draws"]


@dataclass(frozen=True)
class AudioAugmentation:
    """Random changes of the recordings to learn from, drawn anew for every example in every step."""

    speed: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Recordings are up to this share faster or slower, and their pitch with them."""
    noise: Annotated[float, Ge(0)] = 0.0
    """White noise is added, at most this many times as loud as the recording."""
    time_masks: Annotated[int, Ge(0), Le(64)] = 0
    """How many stretches of time are hidden (Park et al. 2019, "SpecAugment"): they become the mean."""
    time_width: Annotated[int, Ge(1)] = 100
    """The most frames of one."""
    time_share: Annotated[float, Ge(0), Le(1)] = 1.0
    """And the most of it as a share of the recording."""
    frequency_masks: Annotated[int, Ge(0), Le(64)] = 0
    """How many bands of frequencies are hidden."""
    frequency_width: Annotated[int, Ge(1)] = 27
    """The most mels of one."""

    def faster(self, waveforms: Waveforms, samples: Counts, draws: Draws) -> tuple[Waveforms, Counts]:
        """The recordings at another speed, by linear interpolation; none becomes longer than the array.

        Of faster ones, frequencies beyond half of the sample rate are folded back.
        """
        slowest = samples[:, None] / waveforms.shape[1]
        speed = jnp.maximum(1 + self.speed * (2 * draws[:, :1] - 1), slowest)
        places = jnp.arange(waveforms.shape[1])[None] * speed
        before = places.astype(jnp.int32)
        near = [jnp.take_along_axis(waveforms, before + i, axis=1, mode="fill", fill_value=0) for i in (0, 1)]
        rest = places - before
        samples = jnp.minimum((samples / speed[:, 0]).astype(jnp.int32), waveforms.shape[1])
        return near[0] * (1 - rest) + near[1] * rest, samples

    def noisy(self, waveforms: Waveforms, samples: Counts, draws: Draws, noise: Waveforms) -> Waveforms:
        """The recordings with noise of some loudness between none and the most."""
        loudness = jnp.sqrt(jnp.sum(waveforms**2, axis=1) / jnp.maximum(samples, 1))  # padding is zero
        return waveforms + (self.noise * draws[:, 1] * loudness)[:, None] * noise

    def masked(self, features: Features, frames: Counts, draws: Draws) -> Features:
        """The features with stretches of time and bands of frequencies hidden."""
        count, real = frames[:, None], jnp.arange(features.shape[1])[None] < frames[:, None]
        widest = jnp.minimum(self.time_width, self.time_share * count)
        times = hidden(features.shape[1], widest, count, draws[:, : 2 * self.time_masks])
        rest, mels = draws[:, 2 * self.time_masks :], features.shape[2]
        bands = hidden(mels, jnp.full_like(widest, self.frequency_width), jnp.full_like(count, mels), rest)
        mean = jnp.sum(features, axis=(1, 2), where=real[:, :, None]) / jnp.maximum(mels * frames, 1)
        covered = (times[:, :, None] | bands[:, None]) & real[:, :, None]
        return jnp.where(covered, mean[:, None, None], features)


def hidden(size: int, widest: Array, count: Array, draws: Draws) -> Bool[Array, "batch size"]:
    """Which of `size` places, of `count` that are real, lie in stretches of at most `widest`: two draws for each."""
    widths = jnp.floor(draws[:, ::2] * (jnp.minimum(widest, count) + 1))
    starts = jnp.floor(draws[:, 1::2] * (count - widths + 1))
    places = jnp.arange(size).reshape(1, -1, 1)
    return ((starts[:, None] <= places) & (places < (starts + widths)[:, None])).any(axis=2)


@dataclass(frozen=True)
class AudioTask(Task):
    """Learns something of a recording, `audio`: a file, its bytes or samples. Tokens of a batch are frames of 10 ms."""

    log_mel: LogMel = field(default_factory=LogMel)
    """What the model reads of a recording."""
    augmentation: AudioAugmentation = field(default_factory=AudioAugmentation)
    """Random changes of the recordings to learn from."""

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return {**super().kinds, "audio": "audio"}

    @property
    def columns(self) -> Columns:
        """The samples in frames, and their number."""
        return {"audio": Column("int16", (self.log_mel.hop,)), "samples": Column(varying=False)}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """The samples of recordings and their number, `Unreadable` for those that cannot be read."""
        packages()
        hop = self.log_mel.hop

        def encoded(example: Example) -> tuple[np.ndarray, int]:
            try:
                return encode_audio(example["audio"], self.log_mel.sample_rate, max_length * hop)
            except TooLong:  # which is seen without reading it
                return np.broadcast_to(np.int16(0), (max_length + 1, hop)), 0

        pairs = decodable(encoded, examples)
        pairs = [(pair, pair) if isinstance(pair, Unreadable) else pair for pair in pairs]
        return {"audio": [audio for audio, _ in pairs], "samples": [samples for _, samples in pairs]}

    def input_of(self, model: Any, data: DataConfig) -> Frames:
        frames = getattr(model, "input", None)
        if not isinstance(frames, Frames) or frames.num_mels not in (0, self.log_mel.num_mels):
            raise ValueError(f"{type(self).__name__} needs model.input Frames, of task.log_mel.num_mels or 0")
        layers = getattr(model, "encoder_layers", model)
        reach, needed = layers.positions.reach(layers.sizes()), frames.left(data.max_length) + frames.first
        if reach is not None and reach < needed:
            raise ValueError(
                f"model.max_length {reach} is below the {needed} vectors of data.max_length frames; raise it"
            )
        return replace(frames, num_mels=self.log_mel.num_mels)

    def read(self, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> tuple[Features, Counts]:
        """The features of a batch's recordings and how many frames these have; with a key they are augmented."""
        waveforms, samples, how = waveforms_of(batch["audio"]), batch["samples"], self.augmentation
        if key is None or how == AudioAugmentation():
            return self.features_of(waveforms, samples)
        # An example's draws are the same in whatever row, and on whatever device, it is.
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["example"])
        draws = jax.vmap(partial(jax.random.uniform, shape=(2 + 2 * (how.time_masks + how.frequency_masks),)))(keys)
        if how.speed:
            waveforms, samples = how.faster(waveforms, samples, draws)
        if how.noise:
            noise = jax.vmap(lambda own: jax.random.normal(jax.random.fold_in(own, 1), waveforms.shape[1:]))(keys)
            waveforms = how.noisy(waveforms, samples, draws, noise)
        features, frames = self.features_of(waveforms, samples)
        return how.masked(features, self.log_mel.frames(samples), draws[:, 2:]), frames

    def features_of(self, waveforms: Waveforms, samples: Counts) -> tuple[Features, Counts]:
        """The features of waveforms, of which so many samples are real, and how many frames the model reads."""
        return self.log_mel(waveforms, samples)


def waveforms_of(audio: Array) -> Waveforms:
    """Floats from -1 to 1 of a column of frames of 16 bits."""
    return audio.reshape(audio.shape[0], -1).astype(jnp.float32) / 2**15


class Listened(NamedTuple):
    """From samples to the encoder's vectors."""

    log_mel: LogMel
    lengths: str
    """The model's name for the numbers of frames that are real."""

    def __call__(self, model: Any, audio: Array, _: Array, samples: Array) -> Encoded:
        features, frames = self.log_mel(waveforms_of(audio), samples)
        return model.encode(features, **{self.lengths: frames})


@dataclass(eq=False, repr=False)
class AudioReader(Predictor):
    """A model of recordings, which are read as in training."""

    _: KW_ONLY
    log_mel: LogMel

    def inputs_of(self, items: Sequence[Recording]) -> tuple[list[np.ndarray], list[int]]:
        """Samples in frames, and their number; ValueError, with the number of the line, for what cannot be read."""

        def frames(sound: Any) -> tuple[np.ndarray, int]:
            audio, count = encode_audio(sound, self.log_mel.sample_rate)
            if not 0 < len(audio) <= self.max_length:
                raise ValueError(f"a recording of {len(audio)} frames, not of 1 to {self.max_length}")
            return audio, count

        pairs = [*decoded(items, frames, "recording")]
        return [audio for audio, _ in pairs], [count for _, count in pairs]
