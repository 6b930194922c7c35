"""Random changes of pictures: each as its draws say, and drawn by seed, epoch and example."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageOps

from transformer_jax.data.augmentation import Augmentation, operated
from transformer_jax.data.columns import Column
from transformer_jax.data.pictures import encode_picture, picture_column
from transformer_jax.data.pipeline import batches
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.table import encode_table

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
    columns = {"image": picture_column(8, 3, Augmentation(shift=2, operations=2)), "number": Column(varying=False)}
    rows = [{"image": encode_picture(picture), "number": i} for i, picture in enumerate(pictures)]
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
