"""Damaged and hostile files of published models end in one error, or are read: never in anything else."""

import io
import json
import random
import time
from typing import Any

import numpy as np
import pytest
import sentencepiece

from transformer_jax.data.subwords import ByteBPE
from transformer_jax.interop import tensor_files
from transformer_jax.interop.published import open_published, write_published
from transformer_jax.interop.tensor_files import INDEX
from transformer_jax.models.decoder_only import llama
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.runs.published_run import experiment_for

SIZES = {"d_model": 16, "num_heads": 4, "d_ff": 24, "num_layers": 2, "max_length": 64}
TEXTS = ["the quick brown fox jumps over 42 lazy dogs", "Zwölf Boxkämpfer jagen Viktor"] * 20
ENDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GENERATION = {"eos_token_id": [0, 3], "temperature": 0.5, "top_k": 5, "do_sample": True, "suppress_tokens": [7]}
HOSTILE = [
    None,
    True,
    -1,
    0,
    10**12,
    -(2**63),
    1e400,
    float("nan"),
    0.5,
    "",
    "x" * 9_999,
    "../..",
    [],
    {},
    [[[]]],
    {"": 1},
]
LONGEST = 20
"""Seconds that a file may take."""


def hostile(value, generator):
    """JSON with one value replaced, doubled, or left out."""
    if isinstance(value, dict | list) and value and generator.random() < 0.85:
        value = value.copy()
        place = generator.choice([*value] if isinstance(value, dict) else range(len(value)))
        change = generator.random()
        if change < 0.1:
            del value[place]
        elif change < 0.2 and isinstance(value, dict):
            value[f"{place}x"] = value[place]
        else:
            value[place] = hostile(value[place], generator)
        return value
    return generator.choice(HOSTILE)


def damaged(content, generator):
    """A file with some bytes changed, cut off, repeated or put in; most of them near its beginning."""
    content, reach = bytearray(content), generator.choice([64, 1_000, len(content)])
    for _ in range(generator.choice([1, 1, 3, 20])):
        content[generator.randrange(min(reach, len(content)))] = generator.randrange(256)
    change, place = generator.random(), generator.randrange(len(content))
    if change < 0.2:
        return bytes(content[:place])
    return bytes(content[:place] + content[: generator.randrange(99)] + content[place:]) if change < 0.4 else content


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Two models with all files that are read: one with a byte-level vocabulary and shards, one with SentencePiece."""
    root, monkeypatch = tmp_path_factory.mktemp("published"), pytest.MonkeyPatch()
    pieces = io.BytesIO()
    options = {"vocab_size": 300, "model_type": "bpe", "byte_fallback": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=pieces, **options)
    contents = {"tokenizer.json": ByteBPE(vocab_size=300).train(TEXTS).content, "tokenizer.model": pieces.getvalue()}
    for name, content in contents.items():
        config = llama(**SIZES, vocab_size=300)
        parameters = {key: np.asarray(value) for key, value in named_parameters(config.build(0)).items()}
        monkeypatch.setattr(tensor_files, "LARGEST_SHARD", 10_000 if name == "tokenizer.json" else 2**30)
        write_published(root / name, config, parameters)
        (root / name / name).write_bytes(content)
        files = {
            "generation_config.json": GENERATION,
            "tokenizer_config.json": ENDS | {"chat_template": "{{ messages }}"},
        }
        files |= {"added_tokens.json": {"<x>": 299}} if name == "tokenizer.model" else {}
        for file, values in files.items():
            (root / name / file).write_text(json.dumps(values))
        read(root / name)
    monkeypatch.undo()
    assert (root / "tokenizer.json" / INDEX).is_file()
    return root


def read(directory):
    """Everything that an import looks at before it writes."""
    tokenizer: Any = experiment_for(open_published(directory))[1]["text"]
    assert tokenizer.decode(tokenizer.encode("the fox")) is not None


def test_mutated_files_end_in_one_error_or_are_read(published, request):
    generator = random.Random(0)
    files = sorted(path for path in published.rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in files}
    count, refused, longest = 10_000 if request.config.getoption("--slow") else 100, 0, 0.0
    for _ in range(count):
        path = generator.choice(files)
        as_json = path.suffix == ".json" and generator.random() < 0.7
        changed = damaged(contents[path], generator)
        if as_json:
            changed = json.dumps(hostile(json.loads(contents[path]), generator)).encode()
        path.write_bytes(changed)
        start = time.monotonic()
        try:
            read(path.parent)
        except (ValueError, FileNotFoundError) as error:
            assert str(error), changed[:200]
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{path.name}: {changed[:2_000]!r}") from error
        longest = max(longest, time.monotonic() - start)
        path.write_bytes(contents[path])
    assert sorted(path for path in published.rglob("*") if path.is_file()) == files
    assert {path: path.read_bytes() for path in files} == contents
    print(f"{count:,} mutated files, {refused:,} refused, the longest took {longest:.2f} s")
    assert refused > count / 3 and longest < LONGEST
