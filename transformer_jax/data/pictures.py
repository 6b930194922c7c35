"""Pictures: where they come from, and from the bytes of a file to an array of one size."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge
from jaxtyping import UInt8

from transformer_jax.data.augmentation import PLAIN, Augmentation
from transformer_jax.data.lines import existing, file_lines
from transformer_jax.data.media import ClassFolders, FileTable, file_bytes
from transformer_jax.data.sources import Example, HeldOut, Source, check_split

MOST_PIXELS = 2**26
"""Pixels of a file; what claims to have more may be made to exhaust the memory."""
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may be, whatever its name; others, such as PostScript, would be given to programs."""
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Picture = UInt8[np.ndarray, "height width channels"] | UInt8[np.ndarray, "height width"]


def encode_picture(picture: str | Path | bytes | Picture) -> bytes:
    """The bytes of a file, and an array as a PPM file; ValueError for other channels than 1 or 3, OSError of files."""
    from PIL import Image

    if not isinstance(picture, np.ndarray):
        return picture if isinstance(picture, bytes) else file_bytes(Path(picture), "picture")
    if picture.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"no picture: an array of the shape {picture.shape}; channels are 1 or 3")
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture).save(file, "PPM")
    return file.getvalue()


def decode_picture(
    data: bytes, draws: Iterator[float] | None = None, *, size: int, channels: int, augmentation: Augmentation = PLAIN
) -> UInt8[np.ndarray, "size size channels"]:
    """The picture, grey for 1 channel or red, green, blue for 3: its middle square scaled to `size` or, with `draws`,
    what `augmentation` draws; of an animation the first picture, turned as its camera says, without transparency.

    Raises ValueError for what cannot be decoded.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    augmentation = PLAIN if draws is None else augmentation
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width:,} x {image.height:,} pixels are more than {MOST_PIXELS:,}")
        if augmentation.crop == 1:
            image.draft(None, (2 * size, 2 * size))  # large JPEG files are read at a smaller scale
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # of 16 bits
            image = Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
        if image.mode == "F":
            raise ValueError("its values are floats, whose range is not known")
        image = augmentation.square(image.convert("L" if channels == 1 else "RGB"), size, draws or iter(()))
        return np.asarray(image).reshape(size, size, channels)
    except UnidentifiedImageError as error:
        raise ValueError(f"no picture: not one of {', '.join(FORMATS)}") from error
    except Exception as error:  # of many types, whatever the damage is
        raise ValueError(f"no picture: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Digits(Source):
    """1,797 handwritten digits of 8 x 8 pixels in 16 shades of grey, which scikit-learn brings along.

    Every fifth is for test and every tenth for validation (Alpaydin and Kaynak 1998, the test part of their data).
    """

    def examples(self, split: str) -> Iterator[Example]:
        from sklearn.datasets import load_digits

        check_split(self, split)
        digits: Any = load_digits()
        part = np.arange(len(digits.target)) % 10
        wanted = {"train": ~np.isin(part, (3, 4, 9)), "validation": part == 3, "test": np.isin(part, (4, 9))}[split]
        images = np.round(digits.images[wanted] * (255 / 16)).astype(np.uint8)[..., None]
        for image, label in zip(images, digits.target[wanted], strict=True):
            yield {"image": image, "label": int(label)}


@dataclass(frozen=True)
class DigitPairs(Source):
    """Pictures of two of these digits, beside or above each other, with a `caption`, such as "three left of seven"."""

    count: Annotated[int, Ge(1)] = 10_000
    """Pictures to learn from; a tenth as many for validation, and for test."""

    def examples(self, split: str) -> Iterator[Example]:
        digits, random = [*Digits().examples(split)], np.random.default_rng(self.splits.index(split))
        for _ in range(self.count if split == "train" else -(-self.count // 10)):
            pair = [digits[number] for number in random.integers(len(digits), size=2)]
            picture, beside = np.zeros((16, 16), np.uint8), random.random() < 0.5
            canvas = picture.T if beside else picture  # of one above the other
            for row, digit, column in zip((0, 8), pair, random.choice((0, 4, 8), size=2), strict=True):
                pixels = digit["image"][..., 0]
                canvas[row : row + 8, column : column + 8] = pixels.T if beside else pixels
            one, other = (NAMES[digit["label"]] for digit in pair)
            yield {"image": picture, "caption": f"{one} {'left of' if beside else 'above'} {other}"}


@dataclass(frozen=True)
class Npz(HeldOut):
    """Files of NumPy with an array of pictures `[pictures, height, width(, channels)]` and one of labels."""

    train: tuple[str, ...] = ("train.npz",)
    arrays: tuple[str, str] = ("images", "labels")
    """The names of both arrays in a file."""
    classes: str = ""
    """A file with the name of the label of every number, one a line; empty: numbers are names."""

    def examples(self, split: str) -> Iterator[Example]:
        """The examples of a split; ValueError for files that hold something else."""
        belongs = self.belongs(split)
        names = [*file_lines(existing(Path(self.directory).expanduser() / self.classes))] if self.classes else []
        for path in self.files(split):
            try:
                with np.load(path, allow_pickle=False) as file:
                    images, labels = (np.asarray(file[name]) for name in self.arrays)
                if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != images.shape[:1]:
                    raise ValueError(f"they are {images.dtype} {images.shape} and {labels.shape}")
                if names and (labels.dtype.kind not in "iu" or set(labels.tolist()) - {*range(len(names))}):
                    raise ValueError(f"{self.classes} names {len(names)}, numbered from 0; labels are others")
            except Exception as error:  # of many types, whatever the damage is
                wanted = f"{' and '.join(self.arrays)} of as many pictures (uint8) and labels"
                raise ValueError(f"{path} does not hold {wanted}: {error}") from error
            for image, label in zip(images, labels.tolist(), strict=True):
                if belongs(image.tobytes().hex()):
                    yield {"image": image, "label": names[label] if names else label}


@dataclass(frozen=True)
class PictureFolders(ClassFolders):
    """Folders with a folder of picture files for each class."""

    feature: ClassVar[str] = "image"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES


@dataclass(frozen=True)
class PictureTable(FileTable):
    """Tables of picture files and their labels."""

    features: tuple[str, ...] = ("image", "label")
