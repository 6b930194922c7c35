"""Sound: from the bytes of a file to samples of one rate, and from samples to the column of a batch."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int16

from transformer_jax.data.media import ClassFolders, FileTable, file_bytes

SUFFIXES = (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
RATES = (1_000, 400_000)
"""The lowest and highest sample rates of a file."""
MOST_SAMPLES = 2**27
"""Samples of a file at the rate that is wanted: 2.3 hours of 16,000 a second."""
BLOCK = 2**18
"""Samples that are decoded at once."""
FRAMES_PER_SECOND = 100
"""The items of a column of sound are frames of 10 ms, so that tokens of a batch and the longest recording are these."""
SHORTEST = 3
"""Frames of the shortest recording: what spectra are taken of is about as long."""
CUT_OFF = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be \d+\)", re.MULTILINE)
"""In libsndfile's notes: a file has fewer bytes than its header says, which those that were streamed leave open."""
Samples = Float32[np.ndarray, " samples"]


def packages() -> tuple[Any, Any]:
    """The packages soundfile and soxr; ValueError where they are not installed."""
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:  # OSError without libsndfile
        raise ValueError(f"sound needs the packages soundfile and soxr ({error}): pip install '.[audio]'") from error
    return soundfile, soxr


class TooLong(ValueError):
    """A recording has more samples than are wanted."""


def read_audio(file: str | Path | bytes, sample_rate: int, most: int = MOST_SAMPLES) -> Samples:
    """The samples of a file or its bytes at `sample_rate`, between -1 and 1, as the mean of its channels.

    WAV, FLAC, Ogg, MP3 and what else libsndfile reads, whatever the file's name is. Raises ValueError for what is no
    sound, cut off or damaged, TooLong for more than `most` samples, and OSError for a file that cannot be read.
    """
    soundfile, soxr = packages()
    data = file if isinstance(file, bytes) else file_bytes(Path(file), "sound")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            rate, claimed = sound.samplerate, sound.frames
            if not RATES[0] <= rate <= RATES[1]:
                raise ValueError(f"its sample rate is {rate:,}")
            if sound.format in ("RF64", "W64"):
                raise ValueError(f"{sound.format} is for more than can be read")
            # What was written to a pipe claims the largest size there is, and an MP3's length is an estimate.
            if 0.95 * claimed * sample_rate / rate > most:
                raise TooLong(f"no sound: {claimed:,} samples at {rate:,} Hz are more than {most:,} at {sample_rate:,}")
            blocks = [np.zeros(0, np.float32)]
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
            samples = np.concatenate(blocks)
            cut = CUT_OFF.search(sound.extra_info)
        if (cut and int(cut[1]) < 2**31 - 2**16) or len(samples) < 0.95 * claimed or _lacks_last_page(data):
            raise ValueError("it is cut off")
        if not np.isfinite(samples).all():
            raise ValueError("it has samples that are no numbers")
        return samples if rate == sample_rate else soxr.resample(samples, rate, sample_rate)
    except TooLong:
        raise
    except Exception as error:  # of many types, whatever the damage is
        why = str(getattr(error, "error_string", error))  # libsndfile's own words, without an object's address
        raise ValueError(f"no sound: {' '.join(why.split())}") from error


def _lacks_last_page(data: bytes) -> bool:
    """Whether an Ogg stream has no last page, or not all of it (RFC 3533, section 6)."""
    if data[:4] != b"OggS":
        return False
    page = data[data.rfind(b"OggS") :]
    return len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def encode_audio(
    sound: Path | bytes | np.ndarray, sample_rate: int, most: int = MOST_SAMPLES
) -> tuple[Int16[np.ndarray, "frames hop"], int]:
    """The samples of a file, its bytes or samples of that rate, as frames of 10 ms, and the number of its samples.

    Samples are integers of 16 bits or floats between -1 and 1, of which what is beyond is clipped; the last frame is
    filled up with zeros. What is shorter than `SHORTEST` frames is empty.
    """
    samples = sound if isinstance(sound, np.ndarray) else read_audio(sound, sample_rate, most)
    fits = samples.dtype.kind == "i" and ((samples >= -(2**15)) & (samples < 2**15)).all()
    if samples.ndim != 1 or not (fits or samples.dtype.kind == "f"):
        given = f"{samples.dtype} {list(samples.shape)}"
        raise ValueError(f"no sound: samples are a row of 16-bit integers, or of floats between -1 and 1, not {given}")
    if samples.dtype.kind == "f":
        samples = np.round(np.nan_to_num(samples.astype(np.float32)) * 2**15)
    samples, hop = samples.clip(-(2**15), 2**15 - 1).astype(np.int16), sample_rate // FRAMES_PER_SECOND
    count = len(samples) if len(samples) >= SHORTEST * hop else 0
    return np.pad(samples[:count], (0, -count % hop)).reshape(-1, hop), count


@dataclass(frozen=True)
class AudioFolders(ClassFolders):
    """Folders with a folder of recordings for each class."""

    feature: ClassVar[str] = "audio"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES


@dataclass(frozen=True)
class AudioTable(FileTable):
    """Tables of recordings and their texts or labels."""

    features: tuple[str, ...] = ("audio", "text")
