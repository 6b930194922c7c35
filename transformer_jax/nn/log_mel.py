"""Log-mel features: the loudness of sound in bands of frequencies, a hundred times a second."""

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Array, Float, Int

from transformer_jax.nn.named import choose

Waveforms = Float[Array, "batch samples"]
"""Numbers from -1 to 1."""
Features = Float[Array, "batch frames mels"]
Counts = Int[Array, " batch"]


@dataclass(frozen=True)
class LogMel:
    """Log-mel features of windows of 25 ms, every 10 ms."""

    kind: str = "whisper"
    """whisper: Radford et al. 2022, section 2.2; kaldi: filter banks of Kaldi, normalised over each recording, as in
    fairseq's speech-to-text (Wang et al. 2020); standardised: Whisper's down to 50 dB below the loudest, with mean
    0 and deviation 1 over each recording, so that neither loudness nor the noise of the room matters."""
    num_mels: Annotated[int, Ge(1), Le(512)] = 80
    """Bands of frequencies."""
    sample_rate: Annotated[int, Ge(4000), Le(192_000)] = 16_000
    """Samples of a second."""

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return self.sample_rate // 40

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return self.sample_rate // 100

    def frames(self, samples):
        """The number of frames of waveforms of so many samples, a number or an array."""
        return (samples - self.window + self.hop) // self.hop if self.kind == "kaldi" else samples // self.hop

    def __call__(self, waveforms: Waveforms, lengths: Counts | None = None) -> tuple[Features, Counts]:
        """The features of waveforms that are padded on the right, zero behind each one's frames, and their number.

        Whatever stands in the padding changes nothing. `lengths` are in samples, by default all.
        """
        kinds = {"whisper": self._whisper, "kaldi": self._kaldi, "standardised": self._standardised}
        extract = choose("kind of log-mel features", self.kind, kinds)
        rows, samples = waveforms.shape
        lengths = jnp.full(rows, samples, jnp.int32) if lengths is None else lengths
        frames = jnp.clip(self.frames(lengths), 0)
        real = (jnp.arange(max(self.frames(samples), 0))[None] < frames[:, None])[:, :, None]
        return jnp.where(real, extract(waveforms, lengths, real), 0), frames

    def _whisper(self, waveforms: Waveforms, lengths: Counts, real: Array) -> Features:
        half = self.window // 2
        # Reflected at both ends, as often as it takes: each row at its own.
        period = jnp.maximum(2 * (lengths[:, None] - 1), 1)
        places = jnp.arange(-half, waveforms.shape[1] + half)[None] % period
        reflected = jnp.take_along_axis(waveforms, jnp.minimum(places, period - places), axis=1)
        window = np.hanning(self.window + 1)[:-1]
        power = jnp.log10(jnp.maximum(self._mels(self._framed(reflected, real.shape[1]) * _row(window)), 1e-10))
        loudest = jnp.max(power, axis=(1, 2), keepdims=True, where=real, initial=-10.0)
        return (jnp.maximum(power, loudest - 8) + 4) / 4

    def _standardised(self, waveforms: Waveforms, lengths: Counts, real: Array) -> Features:
        x = self._whisper(waveforms, lengths, real)  # a fourth of powers of ten
        x = jnp.maximum(x, jnp.max(x, axis=(1, 2), keepdims=True, where=real, initial=-10.0) - 5 / 4)
        mean, deviation = (jnp.nan_to_num(of(x, axis=(1, 2), keepdims=True, where=real)) for of in (jnp.mean, jnp.std))
        return (x - mean) / jnp.maximum(deviation, 1e-5)

    def _kaldi(self, waveforms: Waveforms, lengths: Counts, real: Array) -> Features:
        x = self._framed(waveforms * 2**15, real.shape[1])  # as 16-bit numbers
        x = x - x.mean(axis=-1, keepdims=True)
        x = x - 0.97 * jnp.concatenate([x[..., :1], x[..., :-1]], axis=-1)
        x = jnp.log(jnp.maximum(self._mels(x * _row(np.hanning(self.window) ** 0.85)), np.finfo(np.float32).eps))
        count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        centred = x - jnp.sum(x, axis=1, keepdims=True, where=real) / count
        variance = jnp.sum(centred**2, axis=1, keepdims=True, where=real) / count
        return centred / jnp.sqrt(jnp.maximum(variance, 1e-10))

    def _framed(self, x: Waveforms, count: int) -> Float[Array, "batch frames window"]:
        """The first `count` overlapping frames, joined from whole hops, which needs no gather."""
        hops = -(-self.window // self.hop)
        samples = (count + hops) * self.hop
        x = jnp.pad(x[:, :samples], ((0, 0), (0, max(samples - x.shape[1], 0)))).reshape(len(x), -1, self.hop)
        return jnp.concatenate([x[:, i : i + count] for i in range(hops)], axis=-1)[..., : self.window]

    def _mels(self, frames: Float[Array, "batch frames window"]) -> Features:
        size = 2 ** (self.window - 1).bit_length() if self.kind == "kaldi" else self.window
        spectrum = jnp.fft.rfft(frames, size)
        power = spectrum.real**2 + spectrum.imag**2
        filters = mel_filters(self.num_mels, size // 2 + 1, self.sample_rate, slaney=self.kind != "kaldi")
        return jnp.matmul(power, filters.astype(np.float32), precision=jax.lax.Precision.HIGHEST)


def mel_filters(num_mels: int, bins: int, sample_rate: int, *, slaney: bool) -> np.ndarray:
    """Triangular filters `[bins, num_mels]` of the frequencies between 0 and half of the sample rate.

    Those of Slaney's Auditory Toolbox (1998), as in librosa, have equal areas, and their mels are linear in Hz below
    1,000; those of Kaldi begin at 20 Hz, have equal heights, and are triangles in mels (HTK's, 1127 ln(1 + Hz / 700)).
    """
    highest = sample_rate / 2
    places = np.linspace(0, highest, bins)
    if slaney:
        mels = np.linspace(0, 15 + 27 * math.log(highest / 1000) / math.log(6.4), num_mels + 2)
        edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * math.log(6.4) / 27))
    else:
        places, (low, high) = (1127 * np.log1p(hertz / 700) for hertz in (places, np.array([20, highest])))
        edges = np.linspace(low, high, num_mels + 2)
    rising = (places[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - places[:, None]) / np.diff(edges)[1:]
    triangles = np.maximum(np.minimum(rising, falling), 0)
    return triangles * 2 / (edges[2:] - edges[:-2]) if slaney else triangles


def _row(window: np.ndarray) -> Array:
    return jnp.asarray(window, jnp.float32)[None, None]
