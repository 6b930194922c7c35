"""Random changes of the pictures to learn from."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

if TYPE_CHECKING:
    from PIL.Image import Image

Draws = Iterator[float]
"""Numbers in [0, 1) of an example in an epoch."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the pictures to learn from, drawn anew for every example in every epoch."""

    crop: Annotated[float, Gt(0), Le(1)] = 1.0
    """The least share of a picture's area that is cut out and scaled, at an aspect between 3/4 and 4/3 (Szegedy et al.
    2015, section 6, with 0.08); 1: always the middle square."""
    shift: Annotated[int, Ge(0), Le(2**12)] = 0
    """Pixels by which a picture moves at most along each side; what comes in is black (a random crop, as it is called
    on CIFAR)."""
    flip: bool = False
    """Half of the pictures are mirrored, left to right."""
    operations: Annotated[int, Ge(0), Le(8)] = 0
    """How many random operations follow one another (Cubuk et al. 2020, "RandAugment")."""
    magnitude: Annotated[float, Ge(0), Le(10)] = 10.0
    """How strong these are."""
    mixup: Annotated[float, Ge(0)] = 0.0
    """Pictures and labels are mixed with those of the row before, in shares from Beta(mixup, mixup) (Zhang et al. 2018,
    "mixup"); 0: not at all."""
    cutmix: Annotated[float, Ge(0)] = 0.0
    """A rectangle of such a share of a picture is that of the row before (Yun et al. 2019, "CutMix"); each row has one
    of both where `mixup` is set as well."""

    def square(self, image: "Image", size: int, draws: Draws) -> "Image":
        """The square of `size` pixels to learn from."""
        from PIL import Image, ImageOps

        if self.crop < 1:
            area = image.width * image.height * (self.crop + (1 - self.crop) * next(draws))
            aspect = (4 / 3) ** (2 * next(draws) - 1)
            width, height = min(math.sqrt(area * aspect), image.width), min(math.sqrt(area / aspect), image.height)
            left, top = (image.width - width) * next(draws), (image.height - height) * next(draws)
            box = (left, top, left + width, top + height)
            image = image.resize((size, size), Image.Resampling.BICUBIC, box)
        else:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        if self.shift:
            x, y = (math.floor((2 * self.shift + 1) * next(draws)) - self.shift for _ in range(2))
            image = image.transform(image.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y))
        if self.flip and next(draws) < 0.5:
            image = ImageOps.mirror(image)
        for _ in range(self.operations):
            which, sign = next(draws), 1 if next(draws) < 0.5 else -1
            image = operated(image, which, sign * self.magnitude / 10)
        return image


PLAIN = Augmentation()
"""The middle square."""


def operated(image: "Image", which: float, level: float) -> "Image":
    """The picture after one of RandAugment's operations, by a number in [0, 1), at a level from -1 to 1.

    The strongest are those of AutoAugment (Cubuk et al. 2019, table 6).
    """
    from PIL import Image, ImageEnhance, ImageOps

    def moved(*matrix: float | int) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    operations = (
        lambda: image,
        lambda: ImageOps.autocontrast(image),
        lambda: ImageOps.equalize(image),
        lambda: ImageOps.solarize(image, round(256 * (1 - abs(level)))),
        lambda: ImageOps.posterize(image, 8 - round(4 * abs(level))),
        lambda: ImageEnhance.Color(image).enhance(1 + 0.9 * level),
        lambda: ImageEnhance.Contrast(image).enhance(1 + 0.9 * level),
        lambda: ImageEnhance.Brightness(image).enhance(1 + 0.9 * level),
        lambda: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * level),
        lambda: image.rotate(30 * level, Image.Resampling.BILINEAR),
        lambda: moved(1, 0.3 * level, 0, 0, 1, 0),
        lambda: moved(1, 0, 0, 0.3 * level, 1, 0),
        lambda: moved(1, 0, 0.45 * level * image.width, 0, 1, 0),
        lambda: moved(1, 0, 0, 0, 1, 0.45 * level * image.height),
    )
    return operations[int(which * len(operations))]()
