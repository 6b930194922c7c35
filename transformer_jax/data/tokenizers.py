"""Text to token ids and back."""

import functools
import hashlib
import io
import itertools
import json
import logging
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import sentencepiece
from annotated_types import Ge, Le

from transformer_jax.data.fields import check_ranges
from transformer_jax.data.lines import existing, write_whole

LOG = logging.getLogger(__name__)
LONGEST = {"bpe": 65_000, "unigram": 65_000, "word": 1_000}
"""Characters without a space that SentencePiece trains on: at 65,536, versions before 0.2.3 end the process."""
COMPARED = 10_000
"""Training texts that are compared with what comes back from their tokens."""

Offsets = list[tuple[int, int]]
"""Spans of tokens in their text: [start, end) in its Unicode characters."""


class Tokenizer:
    """Turns text into token ids and back. A subclass sets the attributes and overrides the methods that raise here."""

    vocab_size: int
    pad_id: int
    unk_id: int
    bos_id: int
    eos_id: int
    mask_id: int | None
    """None for a vocabulary without such a token."""
    special: Set[int | None]
    """Ids that `decode` leaves out."""
    starts: bool = True
    """Whether a text that is to be continued begins with the start token, as a published tokenizer may not want it."""
    between: int = 1
    """End tokens between two texts that are read as a pair."""
    suffix = ".json"
    """Ending of the saved file's name."""

    def __init__(self, content: bytes):
        self.content = content
        """Content of the saved file."""
        self.fingerprint = hashlib.blake2b(content, digest_size=12).hexdigest()
        """Hash of everything that decides the ids."""

    @property
    def for_targets(self) -> "Tokenizer":
        """Another tokenizer with the same ids, where texts to write are cut in another way than texts to read."""
        return self

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of many texts."""
        raise NotImplementedError

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """The ids of `encode`, and the part of the text that each stands for."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids without special tokens; ValueError for an id outside of the vocabulary."""
        ids = [int(token_id) for token_id in ids]
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token ids are 0 to {self.vocab_size - 1}, not {token_id}")
        return self._text([token_id for token_id in ids if token_id not in self.special])

    def _text(self, ids: list[int]) -> str:
        raise NotImplementedError

    def piece(self, token_id: int) -> str:
        """How one token looks to a person."""
        raise NotImplementedError

    def token_id(self, piece: str) -> int:
        """The token that looks so, the first of several; ValueError where the vocabulary has none."""
        if piece not in self._by_piece or not piece:
            raise ValueError(f"the vocabulary has no token {piece!r}")
        return self._by_piece[piece]

    @functools.cached_property
    def _by_piece(self) -> dict[str, int]:
        return {self.piece(token_id): token_id for token_id in reversed(range(self.vocab_size))}

    def chat_template(self) -> tuple[str, dict[str, str]]:
        """The template by which conversations become texts, and the names of special tokens for it.

        Raises ValueError where there is none, as for every vocabulary that was not published with one.
        """
        raise ValueError("this vocabulary has no chat template; give prompts as texts")

    def starts_word(self, token_id: int) -> bool:
        """Whether a token begins a word (in most vocabularies with the space before it); a special token does."""
        raise NotImplementedError

    def save(self, directory: Path, name: str) -> None:
        """Writes the file from which `load` of its configuration makes the tokenizer."""
        write_whole(directory / f"{name}{self.suffix}", self.content)


@dataclass(frozen=True)
class TokenizerConfig:
    """How a tokenizer is made."""

    kinds: ClassVar[Mapping[str, type["TokenizerConfig"]]]
    """The kinds by name, as the command line has them."""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer for these texts; the same texts give the same tokenizer."""
        raise NotImplementedError

    def load(self, directory: Path, name: str) -> Tokenizer:
        """Reads the tokenizer that its `save` wrote."""
        path = existing(directory / f"{name}.json", "the tokenizer of the run")
        try:
            return self._restored(path.read_bytes())
        except Exception as error:  # the package tokenizers raises nothing narrower
            raise ValueError(f"{path}, the tokenizer of the run, cannot be read: {error}") from error

    def _restored(self, content: bytes) -> Tokenizer:
        raise NotImplementedError


NORMALIZATIONS = ("nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity")
WORDS = {"normalization_rule_name": "nmt_nfkc"}
WORD_BEGIN = "\u2581"
"""SentencePiece's sign for a space, with which a word begins."""
CHARACTERS = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
MODEL_TYPES: dict[str, dict[str, Any]] = {"bpe": WORDS, "unigram": WORDS, "word": WORDS, "char": CHARACTERS}
"""SentencePiece's settings by the type of model: it normalises words, and gives characters back as they were.

Except the characters that it reserves: U+2581 (a space), U+2585, NUL, and the tab before version 0.2.3.
"""


@dataclass(frozen=True)
class SentencePiece(TokenizerConfig):
    """A SentencePiece vocabulary (Kudo and Richardson 2018), trained from the corpus or loaded from a file."""

    vocab_size: Annotated[int, Ge(5)] = 8_000
    """Tokens, special ones included; `char` and `word` take no more than the text has."""
    model_type: str = "bpe"
    """bpe, unigram, char (decodes to exactly the text) or word."""
    path: str = ""
    """A .model file to use instead of training one; the other fields are then not used."""
    character_coverage: Annotated[float, Ge(0.98), Le(1)] = 1.0
    """Share of the text's characters that get a token."""
    split_digits: bool = False
    """Every digit is a token of its own."""
    byte_fallback: bool = False
    """Unknown characters become bytes instead of <unk>."""
    normalization: str = ""
    """nmt_nfkc, nmt_nfkc_cf (lower-cases), nfkc, nfkc_cf or identity; empty: nmt_nfkc, and identity for char."""
    mask: bool = False
    """Adds the token <mask>, for masked language modelling."""
    train_sentences: Annotated[int, Ge(1)] = 1_000_000
    """Training looks at this many texts at most, a fixed random choice."""

    def train(self, texts: Iterable[str]) -> "SentencePieceTokenizer":
        """A vocabulary of the texts, or the one of `path`; ValueError if the texts are too few for one."""
        if self.path:
            return _read(Path(self.path).expanduser(), "data.tokenizer.path")
        check_ranges(self, "data.tokenizer")
        settings = MODEL_TYPES.get(self.model_type, {})
        rule = self.normalization or settings.get("normalization_rule_name", "nmt_nfkc")
        if self.model_type not in MODEL_TYPES:
            raise ValueError(f"data.tokenizer.model_type is {', '.join(MODEL_TYPES)}, not {self.model_type!r}")
        if rule not in NORMALIZATIONS:
            raise ValueError(f"data.tokenizer.normalization is {', '.join(NORMALIZATIONS)}, not {rule!r}")
        sample, limit, model = training_texts(texts, self.train_sentences), LONGEST.get(self.model_type), io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sample if limit is None else (_split_stretches(text, limit) for text in sample)),
                model_writer=model,
                vocab_size=self.vocab_size,
                model_type=self.model_type,
                character_coverage=self.character_coverage,
                split_digits=self.split_digits,
                byte_fallback=self.byte_fallback,
                max_sentence_length=1 << 30,  # longer ones are dropped silently
                num_threads=1,  # the result depends on it
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                control_symbols="<mask>" if self.mask else "",  # one that no text becomes
                hard_vocab_limit=self.model_type in ("bpe", "unigram"),
                minloglevel=2,
                **{**settings, "normalization_rule_name": rule},
            )
            tokenizer = SentencePieceTokenizer(model.getvalue())
        except (RuntimeError, OSError) as error:
            raise ValueError(self._explain(str(error))) from error
        if report := _round_trip_report(tokenizer, sample[:: -(-len(sample) // COMPARED)], rule):
            LOG.warning(report)
        return tokenizer

    def load(self, directory: Path, name: str) -> "SentencePieceTokenizer":
        return _read(directory / f"{name}.model", "the tokenizer of the run")

    def _explain(self, message: str) -> str:
        """SentencePiece's message in one line."""
        size = f"data.tokenizer.vocab_size {self.vocab_size}"
        if most := re.search(r"<= (\d+)", message):
            return f"{size} is more than the text can support; at most {most[1]}"
        if least := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
            return f"{size} is too few for the characters of the text; at least {least[1]}, or lower character_coverage"
        return f"no vocabulary of {self.vocab_size} tokens could be trained: {' '.join(message.split())}"


def _round_trip_report(tokenizer: Tokenizer, texts: list[str], rule: str) -> str:
    """How many texts do not come back from their tokens, white space aside, and what helps; empty if all do."""
    unknown = changed = 0
    lost = Counter[str]()
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        back = tokenizer.decode(ids)
        if tokenizer.unk_id in ids:
            unknown += 1
        elif back.split() != text.split():
            changed += 1
            lost.update(set(text) - set(back))
    parts = []
    if changed:
        most = max(lost, key=lambda one: (lost[one], one), default="")
        often = f", most often U+{ord(most):04X} {unicodedata.name(most, '')}" if most else ""
        way = "nfkc keeps those that join letters, identity all but a few of SentencePiece's own"
        parts.append(f"{changed:,} are changed by data.tokenizer.normalization {rule}{often} ({way})")
    if unknown:
        way = "raise data.tokenizer.vocab_size or character_coverage, or set byte_fallback"
        parts.append(f"{unknown:,} have unknown characters or words ({way})")
    count = f"{changed + unknown:,} of {len(texts):,} training texts do not come back from the vocabulary: "
    return count + "; ".join(parts) if parts else ""


def _split_stretches(text: str, limit: int) -> str:
    """Puts spaces into stretches without one that have more than `limit` characters after normalisation."""
    size = limit // 18  # normalisation makes so many of a character at most

    def split(match: re.Match[str]) -> str:
        stretch = match[0]
        if len(unicodedata.normalize("NFKC", stretch).casefold()) <= limit:
            return stretch
        return " ".join(stretch[i : i + size] for i in range(0, len(stretch), size))

    return re.sub(f"[^ ]{{{size},}}", split, text) if len(text) > size else text


def training_texts(texts: Iterable[str], count: int) -> list[str]:
    """At most `count` texts to learn from, each equally likely (reservoir sampling), the same ones every time.

    Not the first ones: large corpora are often several, one after the other. Blank texts do not count; ValueError if
    all are blank.
    """
    remaining = filter(str.strip, map(encodable, texts))
    chosen = list(itertools.islice(remaining, count))
    generator = random.Random(0)
    for seen, text in enumerate(remaining, len(chosen) + 1):
        place = int(generator.random() * seen)
        if place < count:
            chosen[place] = text
    if not chosen:
        raise ValueError("there is no text to train a vocabulary on; check data.source")
    return chosen


def encodable(text: str) -> str:
    """The text with a question mark for every lone surrogate, which is no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read(path: Path, what: str) -> "SentencePieceTokenizer":
    try:
        return SentencePieceTokenizer(existing(path, what).read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{path.absolute()}, {what}, is not a SentencePiece model") from error


def ids_and_spans(processor: Any, text: str) -> tuple[list[int], Offsets]:
    """What a SentencePiece processor makes of a text, and the part of the text that each piece stands for."""
    if hasattr(processor, "encode_as_offset_mapping"):  # older versions lack it
        mapping = processor.encode_as_offset_mapping(text)
        return mapping["ids"], mapping["offsets"]
    pieces = processor.encode(text, out_type="immutable_proto").pieces
    return [piece.id for piece in pieces], [(piece.begin, piece.end) for piece in pieces]


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, with the ids it came with.

    Models from elsewhere may lack special tokens. ALBERT's start and end are [CLS] and [SEP]. A model with no padding
    uses <unk> for it, which is never to be generated either, and one with no start (T5) begins with padding.
    """

    suffix = ".model"

    def __init__(self, model: bytes):
        super().__init__(model)
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        self.vocab_size = self._processor.vocab_size()
        self.unk_id = self._processor.unk_id()
        self.pad_id = self._id(self._processor.pad_id(), "<pad>", self.unk_id)
        self.bos_id = self._id(self._processor.bos_id(), "[CLS]", self.pad_id)
        self.eos_id = self._id(self._processor.eos_id(), "[SEP]", -1)
        if self.eos_id < 0:
            raise ValueError("the SentencePiece model has no token for the end of a text (</s> or [SEP])")
        mask = self._id(-1, "<mask>", self._id(-1, "[MASK]", -1))
        self.mask_id = mask if mask >= 0 else None
        self.special = {self.pad_id, self.bos_id, self.eos_id, self.mask_id} - {self.unk_id}

    def _id(self, own: int, piece: str, default: int) -> int:
        token_id = self._processor.piece_to_id(piece) if own < 0 else own
        return default if token_id == self.unk_id else token_id

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return self._processor.encode([encodable(text) for text in texts], num_threads=1)

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Ids and spans; a span may be empty (the space put before a text) or hold what normalisation took out."""
        return ids_and_spans(self._processor, encodable(text))

    def _text(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def piece(self, token_id: int) -> str:
        return self._processor.id_to_piece(token_id)

    def starts_word(self, token_id: int) -> bool:
        return token_id in self.special or self.piece(token_id).startswith(WORD_BEGIN)


@dataclass(frozen=True)
class Bytes(TokenizerConfig):
    """The bytes of UTF-8 text, after four special tokens."""

    mask: bool = False
    """Adds the token <mask>, for masked language modelling."""

    def train(self, texts: Iterable[str]) -> "ByteTokenizer":
        """Needs no text."""
        return ByteTokenizer(mask=self.mask)

    def _restored(self, content: bytes) -> "ByteTokenizer":
        return ByteTokenizer(mask=bool(json.loads(content)["mask"]))


class ByteTokenizer(Tokenizer):
    """Every byte is a token with the id byte + 4; the mask comes last."""

    pad_id, unk_id, bos_id, eos_id = 0, 1, 2, 3
    special = {0, 1, 2, 3, 260}

    def __init__(self, *, mask: bool = False):
        super().__init__(json.dumps({"tokenizer": "bytes", "mask": mask}).encode())
        self.mask_id = 260 if mask else None
        self.vocab_size = 261 if mask else 260
        self.fingerprint = "bytes and mask" if mask else "bytes"

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[byte + 4 for byte in text.encode("utf-8", "replace")] for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Ids and spans; the bytes of a character share its span."""
        places = (place for place, character in enumerate(encodable(text)) for _ in character.encode())
        return self.encode(text), [(place, place + 1) for place in places]

    def _text(self, ids: list[int]) -> str:
        return bytes(token_id - 4 for token_id in ids).decode("utf-8", "replace")

    def piece(self, token_id: int) -> str:
        names = {0: "<pad>", 1: "<unk>", 2: "<s>", 3: "</s>", 260: "<mask>"}
        return names.get(token_id) or repr(bytes([token_id - 4]))[2:-1]

    def starts_word(self, token_id: int) -> bool:
        """Whether a token is white space or special."""
        return token_id in self.special or bytes([token_id - 4]).isspace()
