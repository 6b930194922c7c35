"""Pictures: where they come from, and from the bytes of a file to an array of one size."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from transformer_jax.data.augmentation import Augmentation, Draws
from transformer_jax.data.columns import Column
from transformer_jax.data.lines import existing, file_lines
from transformer_jax.data.media import ClassFolders, FileTable
from transformer_jax.data.sources import Example, HeldOut, Source, check_split

MOST_PIXELS = 2**26
"""Pixels of a file; what claims to have more may be made to exhaust the memory."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may be, whatever its name; others, such as PostScript, would be given to programs."""
NPY = b"\x93NUMPY"
"""The beginning of an array in NumPy's format."""
Picture = UInt8[np.ndarray, "height width channels"] | UInt8[np.ndarray, "height width"]
Square = Callable[[Any, int, Draws], Any]
"""From an image of Pillow, a size and random numbers to a square image of that size."""


def picture_column(size: int, channels: int, augmentation: Augmentation) -> Column:
    """A column of pictures, kept as they are encoded; each counts as one token of a batch."""
    decode = partial(decode_picture, size=size, channels=channels)
    vary = partial(decode, square=augmentation.square) if augmentation != Augmentation() else None
    return Column("uint8", (size, size, channels), varying=False, decode=decode, vary=vary)


def encode_picture(picture: bytes | Picture) -> bytes:
    """The bytes of a file as they are, and an array in NumPy's format."""
    if isinstance(picture, bytes):
        return picture
    file = io.BytesIO()
    np.save(file, picture, allow_pickle=False)
    return file.getvalue()


def decode_picture(
    data: bytes, draws: Draws | None = None, *, size: int, channels: int, square: Square | None = None
) -> UInt8[np.ndarray, "size size channels"]:
    """The picture, grey for 1 channel or red, green, blue for 3: its middle square scaled to `size`, or what `square`
    cuts out by its `draws`; of an animation the first picture, turned as its camera says, without transparency.

    Raises ValueError for what cannot be decoded.
    """
    from PIL import Image, ImageOps

    try:
        if data.startswith(NPY):
            array = np.load(io.BytesIO(data), allow_pickle=False)
            if draws is None and array.shape == (size, size, channels):
                return array
            image = Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
        else:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width:,} x {image.height:,} pixels are more than {MOST_PIXELS:,}")
            if draws is None:
                image.draft(None, (2 * size, 2 * size))  # large JPEG files are read at a smaller scale
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # of 16 bits
            image = Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
        if image.mode == "F":
            raise ValueError("its values are floats, whose range is not known")
        image = image.convert("L" if channels == 1 else "RGB")
        if draws is None or square is None:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        else:
            image = square(image, size, draws)
        return np.asarray(image).reshape(size, size, channels)
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
            except (EOFError, KeyError, OSError, ValueError, TypeError) as error:
                kind = f"arrays {' (uint8) and '.join(self.arrays)} of as many pictures and labels"
                raise ValueError(f"{path} does not hold {kind}: {error}") from error
            for image, label in zip(images, labels.tolist(), strict=True):
                if belongs(image.tobytes().hex()):
                    yield {"image": image, "label": names[label] if names else label}

    def fingerprint(self, split: str) -> str:
        return self.digest(split, split, self.arrays, self.classes, self.holdout)


@dataclass(frozen=True)
class PictureFolders(ClassFolders):
    """Folders with a folder of picture files for each class."""

    feature: ClassVar[str] = "image"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES


@dataclass(frozen=True)
class PictureTable(FileTable):
    """Tables of picture files and their labels."""

    features: tuple[str, ...] = ("image", "label")
