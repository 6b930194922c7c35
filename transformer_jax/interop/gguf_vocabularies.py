"""The vocabulary of a GGUF file becomes the files of a published tokenizer.

Byte-level pieces become tokenizer.json, SentencePiece's become tokenizer.model, which holds what GGUF took out of one.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from transformer_jax.data.subwords import of_library

NORMAL, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = range(1, 7)
"""Kinds of tokens in `tokenizer.ggml.token_type`, numbered as SentencePiece does: special ones are CONTROL."""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": WORDS.format(r"\p{N}{1,3}"),
    "qwen2": WORDS.format(r"\p{N}"),
}
"""How texts are cut before byte-level pieces, by `tokenizer.ggml.pre`; none: as GPT-2 does."""
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
"""What a token is for, in the settings of a tokenizer and in GGUF."""
DEFAULTS = {"bos": 1, "eos": 2, "unk": 0}
"""The ids that llama.cpp takes for those that a file with SentencePiece's pieces does not state."""
BPE = 2
"""SentencePiece's number for it."""


def vocabulary_files(facts: Mapping[str, Any]) -> dict[str, bytes]:
    """The files by their names; ValueError for a vocabulary of another kind, KeyError for one that lacks a part."""
    kind, split = facts["tokenizer.ggml.model"], facts.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "llama" and (kind != "gpt2" or split not in SPLITS):
        raise ValueError(
            f"its vocabulary is {kind} with {split}; read are llama, and gpt2 with {', '.join(SPLITS)}: "
            "take a model that is published with its tokenizer.json"
        )
    tokens = facts["tokenizer.ggml.tokens"]
    stated = {role: facts.get(f"tokenizer.ggml.{theirs}_token_id") for role, theirs in ROLES.items()}
    ids = (DEFAULTS if kind == "llama" else {}) | {role: id for role, id in stated.items() if id is not None}
    for role, number in ids.items():
        if type(number) is not int or not 0 <= number < len(tokens):
            raise ValueError(f"the token for {role} is {number!r}, which is none of {len(tokens):,} tokens")
    settings = {"chat_template": facts.get("tokenizer.chat_template")}
    if kind == "llama":
        name, content = "tokenizer.model", _piece_model(facts, ids["unk"])
        special = [i for i, of in enumerate(facts["tokenizer.ggml.token_type"]) if of == CONTROL and i != ids["unk"]]
        gemma = facts["general.architecture"].startswith("gemma")
        settings |= {
            "tokenizer_class": "GemmaTokenizer" if gemma else "LlamaTokenizer",
            "add_bos_token": facts.get("tokenizer.ggml.add_bos_token", True),
            "added_tokens_decoder": {str(i): {"content": tokens[i], "special": True} for i in special},
        }
    else:
        name, content = "tokenizer.json", _byte_level(facts, split, ids.get("bos")).to_str(pretty=True).encode()
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {f"{role}_token": tokens[number] for role, number in ids.items()}
    settings = {key: value for key, value in settings.items() if value is not None}
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    return {name: content, "tokenizer_config.json": text.encode()}


def _byte_level(facts: Mapping[str, Any], split: str, bos: int | None) -> Tokenizer:
    """A tokenizer of byte-level pieces."""
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts.get("tokenizer.ggml.token_type", [])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    # Llama 3 takes a word that is a token as it is, whatever its merges would give, and begins texts with its bos.
    llama = split == "llama-bpe"
    with of_library("its merges cannot be used"):
        backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=llama))
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=SPLITS[split] is None)]
    if split == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    elif (pattern := SPLITS[split]) is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(pattern), "isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    for token, of in zip(tokens, kinds, strict=False):
        if of in (CONTROL, ADDED):
            backend.add_tokens([AddedToken(token, special=of == CONTROL, normalized=False)])
    if bos is not None and facts.get("tokenizer.ggml.add_bos_token", llama):
        start = (tokens[bos], bos)
        backend.post_processor = processors.TemplateProcessing([start[0], "$A"], special_tokens=[start])
    return backend


def _piece_model(facts: Mapping[str, Any], unknown: int) -> bytes:
    """A model of SentencePiece: its message ModelProto of pieces, trainer_spec and normalizer_spec.

    The numbers of the fields are those of sentencepiece_model.proto (https://github.com/google/sentencepiece).
    """
    tokens, scores, kinds = (facts[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    if {*kinds} - {NORMAL, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE} or not {NORMAL, BYTE} & {*kinds}:
        raise ValueError(f"tokenizer.ggml.token_type has numbers from {NORMAL} to {BYTE}, {NORMAL} for a piece of text")
    if not len(tokens) == len(scores) == len(kinds) or not all(map(math.isfinite, scores)):
        raise ValueError("tokenizer.ggml has one token_type and one finite score for each of its tokens")
    pieces = []
    for number, (token, score, kind) in enumerate(zip(tokens, scores, kinds, strict=True)):
        # GGUF has the spaces of added tokens as they are, and often calls the unknown token special.
        piece, of = token.replace(" ", "\u2581").encode(), UNKNOWN if number == unknown else kind
        pieces.append(_message({1: _message({1: piece, 2: float(score), 3: of})}))
    trainer = {3: BPE, 35: BYTE in kinds}
    normalizer = {
        1: b"identity",
        3: facts.get("tokenizer.ggml.add_space_prefix", True),
        4: facts.get("tokenizer.ggml.remove_extra_whitespaces", False),
        5: True,
    }
    return b"".join((*pieces, _message({2: _message(trainer), 3: _message(normalizer)})))


def _message(fields: Mapping[int, int | float | bytes]) -> bytes:
    """A message by the numbers of its fields (https://protobuf.dev/programming-guides/encoding)."""
    content = b""
    for number, value in fields.items():
        if isinstance(value, float):
            content += _varint(number << 3 | 5) + struct.pack("<f", value)
        elif isinstance(value, int):
            content += _varint(number << 3) + _varint(value)
        else:
            content += _varint(number << 3 | 2) + _varint(len(value)) + value
    return content


def _varint(value: int) -> bytes:
    """A number of seven bits a byte, the lowest first."""
    content = []
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
