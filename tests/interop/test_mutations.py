"""Damaged and hostile files of published models end in one error, or are read: never in anything else."""

import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
import sentencepiece
from gguf_by_hand import file_of
from gguf_by_hand import llama as by_hand

import transformer_jax
from transformer_jax.data.subwords import ByteBPE
from transformer_jax.interop import tensor_files
from transformer_jax.interop.published import write_published
from transformer_jax.interop.tensor_files import INDEX
from transformer_jax.models.decoder_only import gpt2, llama
from transformer_jax.models.encoder_decoder import base
from transformer_jax.models.encoder_only import bert
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Sinusoidal

SIZES = {"d_model": 16, "num_heads": 4, "d_ff": 24, "num_layers": 2, "max_length": 64, "vocab_size": 310}
MARIAN = {"positions": Sinusoidal(interleaved=False), "attention_bias": True, "output_bias": True, "norm_epsilon": 1e-5}
TEXTS = ["the quick brown fox jumps over 42 lazy dogs", "Zwölf Boxkämpfer jagen Viktor"] * 20
ENDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GENERATION = {"eos_token_id": [0, 3], "temperature": 0.5, "top_k": 5, "do_sample": True, "suppress_tokens": [7]}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es"]
POOLING = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
MODULES = [{"idx": i, "name": str(i), "type": f"models.{name}"} for i, name in enumerate(["Transformer", "Pooling"])]
PROGRAM = Path(__file__).with_name("mutated_files.py")
LONGEST = 45
"""Seconds that a file may take, those of a process beside it included."""


def trained():
    """A model of SentencePiece."""
    pieces = io.BytesIO()
    options = {"vocab_size": 300, "model_type": "bpe", "byte_fallback": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=pieces, **options)
    return pieces.getvalue()


def models():
    """Configurations with the files beside their tensors, of every kind that is read."""
    byte_level, pieces = ByteBPE(vocab_size=300).train(TEXTS).content, trained()
    model = json.loads(byte_level)["model"]
    merges = "\n".join(["#version: 0.2", *map(" ".join, model["merges"])])
    table = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    numbers = {table.id_to_piece(i): i for i in range(300)} | {"<pad>": 300}
    generation, template = {"generation_config.json": GENERATION}, {"chat_template": "{{ messages }}"}
    return {
        "byte_level": (llama(**SIZES), generation | {"tokenizer.json": byte_level, "tokenizer_config.json": template}),
        "pieces": (
            llama(**SIZES),
            generation
            | {"tokenizer.model": pieces, "added_tokens.json": {"<x>": 305}, "tokenizer_config.json": ENDS}
            | {"chat_template.jinja": b"{{ messages }}"},
        ),
        "bpe": (gpt2(**SIZES), {"vocab.json": model["vocab"], "merges.txt": merges.encode()}),
        "marian": (
            base(**SIZES, **MARIAN),
            {"source.spm": pieces, "target.spm": pieces, "vocab.json": numbers, "tokenizer_config.json": ENDS},
        ),
        "fairseq": (llama(**SIZES), {"sentencepiece.bpe.model": pieces, "tokenizer_config.json": ENDS}),
        "t5": (llama(**SIZES), {"spiece.model": pieces, "tokenizer_config.json": ENDS | {"extra_ids": 5}}),
        "labels": (
            bert(**SIZES, head="sequence", num_outputs=3),
            {"vocab.txt": "\n".join(WORDS).encode(), "special_tokens_map.json": {"pad_token": "[PAD]"}},
        ),
        "tags": (bert(**SIZES, head="tokens", num_outputs=3), {"vocab.txt": "\n".join(WORDS).encode()}),
        "vectors": (
            bert(**SIZES, head="none"),
            {"vocab.txt": "\n".join(WORDS).encode(), "modules.json": MODULES, "1_Pooling/config.json": POOLING},
        ),
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory of directories with published models."""
    root, monkeypatch = tmp_path_factory.mktemp("published"), pytest.MonkeyPatch()
    for name, (config, files) in models().items():
        shapes, random = (
            named_parameters(jax.eval_shape(lambda config=config: config.build(0))),
            np.random.default_rng(0),
        )
        parameters = {key: random.normal(0, 0.1, value.shape).astype(np.float32) for key, value in shapes.items()}
        monkeypatch.setattr(tensor_files, "LARGEST_SHARD", 10_000 if name == "byte_level" else 2**30)
        labels = tuple("abc") if getattr(config, "num_outputs", 0) else ()
        write_published(root / name, config, parameters, labels=labels)
        for file, values in files.items():
            (root / name / file).parent.mkdir(exist_ok=True)
            (root / name / file).write_bytes(values if isinstance(values, bytes) else json.dumps(values).encode())
    monkeypatch.undo()
    keys, tensors, size = by_hand()
    (root / "gguf").mkdir()
    (root / "gguf" / "model.gguf").write_bytes(file_of(keys, tensors) + bytes(size))
    assert (root / "byte_level" / INDEX).is_file()
    return root


def test_mutated_files_end_in_one_error_or_are_read(published, request):
    pytest.importorskip("gguf", reason="reads GGUF files")
    slow = request.config.getoption("--slow")
    count, every = (10_000, 50) if slow else (100, 100)
    environment = os.environ | {"PYTHONPATH": str(Path(transformer_jax.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    files, ended, begin = {}, {}, 0
    while begin < count:
        command = [sys.executable, str(PROGRAM), str(published), *map(str, (begin, count, LONGEST, every))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        for facts in map(json.loads, done.stdout.splitlines()):
            (ended if "ended" in facts else files)[facts["number"]] = facts
        begin = max(files, default=count) + 1
        # A process that ends before its last file died of that one.
        assert begin == count or done.returncode < 0, done.stderr[-2_000:]
        ended.setdefault(begin - 1, {"ended": f"died of {-done.returncode}", "seconds": LONGEST})
    kinds = Counter((files[number]["file"], facts["ended"]) for number, facts in ended.items())
    for kind in sorted({file for file, _ in kinds}):
        print(f"{kind}: {kinds[kind, 'read']:,} read, {kinds[kind, 'refused']:,} refused")
    longest = max(facts["seconds"] for facts in ended.values())
    refused = sum(facts["ended"] == "refused" for facts in ended.values())
    print(f"{count:,} mutated files, {refused:,} refused, the longest took {longest:.2f} s")
    wrong = {n: (files[n]["file"], facts) for n, facts in ended.items() if facts["ended"] not in ("read", "refused")}
    assert not wrong and count / 3 < refused
