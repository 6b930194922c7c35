"""Random changes of pictures: each as its draws say, and drawn by seed, epoch and example."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageOps

from transformer_jax.data.augmentation import Augmentation, operated
from transformer_jax.data.pictures import encode_picture
from transformer_jax.data.pipeline import batches
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.table import encode_table
from transformer_jax.tasks.image_classification import ImageClassification

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def square(augmentation, *draws, image=IMAGE, size=8):
    return np.asarray(augmentation.square(image, size, iter(draws)))


def test_a_picture_is_moved_and_mirrored():
    padded = np.pad(PIXELS, ((2, 2), (2, 2), (0, 0)))
    for x, y, mirror in np.random.default_rng(1).random((40, 3)):
        column, row = int(5 * x), int(5 * y)
        expected = padded[row : row + 8, column : column + 8]
        found = square(Augmentation(shift=2, flip=True), x, y, mirror)
        np.testing.assert_array_equal(found, expected[:, ::-1] if mirror < 0.5 else expected)


def test_a_part_of_a_picture_is_cut_out_and_scaled():
    wide = Image.fromarray(RANDOM.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    area, aspect = 0.3 + 0.7 * 0.5, (4 / 3) ** (2 * 0.25 - 1)
    width, height = (area * 90 * 60 * aspect) ** 0.5, (area * 90 * 60 / aspect) ** 0.5
    assert height > 60, "which is cut off"
    box = (0.5 * (90 - width), 0.0, 0.5 * (90 + width), 60.0)
    expected = wide.resize((8, 8), Image.Resampling.BICUBIC, box)
    np.testing.assert_array_equal(square(Augmentation(crop=0.3), 0.5, 0.25, 0.5, 0.9, image=wide), expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("number", range(14))
def test_an_operation_keeps_form_and_changes_pixels(number, mode):
    image = IMAGE.resize((16, 16)).convert(mode)
    once = [operated(image, (number + 0.5) / 14, level) for level in (-1.0, 0.3, 1.0)]
    assert all((one.mode, one.size) == (mode, (16, 16)) for one in once)
    changed = [np.asarray(one).tolist() != np.asarray(image).tolist() for one in once]
    assert changed == [number not in (0, 5) or number == 5 and mode == "RGB"] * 3


def test_operations_are_those_of_their_draws():
    expected = ImageOps.autocontrast(operated(IMAGE, 9.5 / 14, -0.5))
    how = Augmentation(operations=2, magnitude=5.0)
    np.testing.assert_array_equal(square(how, 9.5 / 14, 0.7, 1.5 / 14, 0.2), expected)
    turned = np.asarray(operated(Image.new("L", (31, 31), 200), 9.5 / 14, 1.0))
    assert turned[15, 15] == 200 and turned[0, 0] == 0


def test_changes_depend_on_seed_epoch_and_example_alone(tmp_path):
    pictures = RANDOM.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    columns = ImageClassification(image_size=8, augmentation=Augmentation(shift=2, operations=2)).columns
    rows = [{"image": encode_picture(picture), "label": i} for i, picture in enumerate(pictures)]
    table = encode_table(
        rows,
        lambda part: {name: [row[name] for row in part] for name in columns},
        columns,
        max_length=None,
        path=tmp_path / "table",
        skipped=Counter(),
    )

    def seen(seed, multiple, epoch, processes=1, **settings):
        """The pictures of an epoch by their number."""
        size = {"tokens_per_batch": 2 * multiple, "batch_multiple": multiple, "num_buckets": 1}
        plan = BatchPlan(table.lengths, **size, seed=seed, **settings)
        start = epoch * plan.batches_per_epoch
        found = {}
        for process in range(processes):
            form = {"stop": start + plan.batches_per_epoch, "parts": [process], "num_parts": processes}
            for batch in batches(table, plan, start, **form):
                pairs = zip(batch["example"], batch["image"], strict=True)
                found |= {int(example): image.tobytes() for example, image in pairs if example >= 0}
        return [found[number] for number in range(12)]

    once = seen(1, 2, 3)
    assert seen(1, 3, 3) == seen(1, 2, 3, processes=2) == once, "in other batches, and in two processes"
    for seed, epoch in ((2, 3), (1, 4)):
        assert sum(one == other for one, other in zip(seen(seed, 2, epoch), once, strict=True)) < 3
    assert seen(1, 2, 0, shuffle=False) == [picture.tobytes() for picture in pictures], "an evaluation changes nothing"


def test_operations_are_as_strong_as_in_autoaugment():
    """Cubuk et al. 2019, table 6, in NumPy: each at its strongest or half as strong."""
    pixels = np.random.default_rng(3).integers(0, 256, (20, 20), dtype=np.uint8)
    image, wide = Image.fromarray(pixels), pixels.astype(float)

    def found(number, level):
        return np.asarray(operated(image, (number + 0.5) / 14, level)).astype(float)

    np.testing.assert_array_equal(found(3, 0.5), np.where(pixels < 128, wide, 255 - wide))
    np.testing.assert_array_equal(found(4, -1.0), pixels & 0xF0)
    for level in (-1.0, 0.5):
        np.testing.assert_allclose(found(7, level), np.clip((1 + 0.9 * level) * wide, 0, 255), atol=1)
        np.testing.assert_allclose(
            found(6, level), np.clip(wide.mean() + (1 + 0.9 * level) * (wide - wide.mean()), 0, 255), atol=2
        )
    np.testing.assert_array_equal(found(12, 1.0)[:, :11], wide[:, 9:])
    np.testing.assert_array_equal(found(13, -1.0)[9:], wide[:11])
    np.testing.assert_allclose(found(10, 1.0)[10, :16], 0.85 * wide[10, 3:19] + 0.15 * wide[10, 4:20], atol=1)
    np.testing.assert_allclose(found(11, 1.0)[:16, 10], 0.85 * wide[3:19, 10] + 0.15 * wide[4:20, 10], atol=1)
