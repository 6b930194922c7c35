"""Examples as an evaluation gives them to a task."""

from collections import Counter

import pytest

from transformer_jax.data.table import EncodedExamples, encode_table


@pytest.fixture
def encoded(tmp_path):
    """Encodes examples by a task and its tokenizers, as `encoded(task, tokenizers, examples, max_length=16)`."""

    def encode(task, tokenizers, examples, *, max_length):
        table = encode_table(
            examples,
            lambda rows: task.encode(tokenizers, rows, max_length=max_length),
            task.columns,
            max_length=None if task.packed else max_length,
            path=tmp_path / "examples.arrow",
            skipped=Counter(),
        )
        return EncodedExamples(examples, table)

    return encode
