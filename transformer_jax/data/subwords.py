"""The subword vocabularies of BERT and GPT-2, by the `tokenizers` package of Hugging Face."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from transformer_jax.data.lines import existing
from transformer_jax.data.tokenizers import Offsets, Tokenizer, TokenizerConfig, encodable, training_texts

BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
END_OF_TEXT = "<|endoftext|>"
# What BERT, RoBERTa and GPT-2 call the special tokens; the first that a vocabulary has is taken. To the models they are
# pieces like others, and no text becomes one: both kinds cut punctuation from letters first.
ENDS = ("[SEP]", "</s>", END_OF_TEXT)
STARTS, PADDINGS, UNKNOWNS, MASKS = ("[CLS]", "<s>"), ("[PAD]", "<pad>"), ("[UNK]", "<unk>"), ("[MASK]", "<mask>")

WHITE_SPACE = ("\u0120", "\u010a", "\u010d", "\u0109", "\u2581")
"""How a piece begins behind white space: space, line feed, carriage return and tab of byte-level BPE; others' space."""

TRAINING_TEXTS = 1_000_000
"""Training looks at this many texts at most, a fixed random choice."""


@contextlib.contextmanager
def of_library(what: str) -> Iterator[None]:
    """Turns every error of the library into a ValueError; it raises nothing narrow, and panics as a BaseException."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ValueError(f"{what}: {error}") from error


@dataclass(frozen=True)
class Subwords(TokenizerConfig):
    """A vocabulary of subwords, trained on the corpus or published."""

    path: str = ""
    """A vocabulary to use instead of training one; vocab_size is then not used. WordPiece reads a vocab.txt (one piece
    a line), ByteBPE a directory with vocab.json and merges.txt."""
    vocab_size: int = 8_000
    """Tokens, special ones (and the 256 bytes of ByteBPE) included; fewer if the text has no more."""

    def train(self, texts: Iterable[str]) -> "SubwordTokenizer":
        """A vocabulary of the texts, or the one of `path`; ValueError for a vocabulary that cannot be used."""
        backend = self.backend() if self.path else self._train(texts)
        # Without the list of special tokens, by which the library would find them in texts.
        content = json.loads(backend.to_str()) | {"added_tokens": []}
        return SubwordTokenizer(json.dumps(content, ensure_ascii=False))

    def backend(self) -> Backend:
        """The library's tokenizer for the vocabulary of `path`."""
        return self._read(Path(self.path).expanduser())

    def _restored(self, content: bytes) -> "SubwordTokenizer":
        return SubwordTokenizer(content.decode())

    def _read(self, path: Path) -> Backend:
        raise NotImplementedError

    def _train(self, texts: Iterable[str]) -> Backend:
        raise NotImplementedError


@dataclass(frozen=True)
class WordPiece(Subwords):
    """BERT's vocabulary (Devlin et al. 2019): whole words and, behind `##`, their continuations.

    Punctuation marks and Chinese characters are words of their own.
    """

    lowercase: bool = True
    """Lower-cases the text and strips its accents."""

    def _read(self, path: Path) -> Backend:
        existing(path, "data.tokenizer.path")
        try:
            vocabulary = models.WordPiece.read_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path}, data.tokenizer.path, is not a vocab.txt: {error}") from error
        if missing := [piece for piece in BERT_SPECIAL[:4] if piece not in vocabulary]:
            raise ValueError(f"{path}, data.tokenizer.path, is not a vocab.txt of BERT: it has no {missing[0]}")
        return self._backend(models.WordPiece(vocabulary, unk_token="[UNK]"))

    def _train(self, texts: Iterable[str]) -> Backend:
        sample = training_texts(texts, TRAINING_TEXTS)
        characters = self._learn(sample, 0, []).get_vocab()
        if self.vocab_size < len(characters):
            raise ValueError(
                f"data.tokenizer.vocab_size {self.vocab_size} is too few for the characters of the text; "
                f"at least {len(characters)}"
            )
        # Equally frequent pairs are merged in the order of their ids, and continuing characters get theirs from a hash
        # table, another order in every process, unless they come first.
        continuing = sorted(piece for piece in characters if piece.startswith("##"))
        return self._learn(sample, self.vocab_size, continuing)

    def _learn(self, texts: list[str], vocab_size: int, first: list[str]) -> Backend:
        backend = self._backend(models.WordPiece(unk_token="[UNK]"))
        settings = {"min_frequency": 2, "special_tokens": [*BERT_SPECIAL, *first], "show_progress": False}
        trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, **settings)
        backend.train_from_iterator(texts, trainer)
        return backend

    def _backend(self, model: models.WordPiece) -> Backend:
        backend = Backend(model)
        backend.normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        return backend


@dataclass(frozen=True)
class ByteBPE(Subwords):
    """GPT-2's vocabulary (Radford et al. 2019): merges of UTF-8 bytes, so that any text comes back exactly."""

    def _read(self, path: Path) -> Backend:
        def refuse(reason: str, error: Exception | None = None) -> NoReturn:
            raise ValueError(f"{path.absolute()}, data.tokenizer.path, {reason}") from error

        files = [str(existing(path / name, "of data.tokenizer.path")) for name in ("vocab.json", "merges.txt")]
        try:
            vocabulary, merges = models.BPE.read_file(*files)
        except Exception as error:  # the library raises nothing narrower
            refuse(f"cannot be read: {error}", error)
        # The library drops the text of a byte without a token silently, and dies of a merge into nothing.
        needed = {*pre_tokenizers.ByteLevel.alphabet(), *(left + right for left, right in merges)}
        if missing := sorted(needed - vocabulary.keys()):
            refuse(f"is not byte-level BPE: vocab.json has no {missing[0]!r}")
        if len({*vocabulary.values()}) < len(vocabulary):
            refuse("has two pieces with one id in vocab.json")
        if (largest := max(vocabulary.values())) >= 2 * len(vocabulary):
            refuse(f"has an id {largest} in vocab.json, which is no number of one of {len(vocabulary)} tokens")
        try:
            return self._backend(models.BPE(vocabulary, merges))
        except Exception as error:
            refuse(f"cannot be used: {error}", error)

    def _train(self, texts: Iterable[str]) -> Backend:
        if self.vocab_size < 257:
            raise ValueError(f"data.tokenizer.vocab_size is at least 257 (bytes and an end), not {self.vocab_size}")
        backend = self._backend(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=2,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(training_texts(texts, TRAINING_TEXTS), trainer)
        return backend

    def _backend(self, model: models.BPE) -> Backend:
        backend = Backend(model)
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        return backend


class SubwordTokenizer(Tokenizer):
    """A vocabulary of WordPiece or byte-level BPE, from the JSON of the library.

    GPT-2's one special token is start, end, padding and unknown token.
    """

    def __init__(self, content: str):
        super().__init__(content.encode())
        self._backend = Backend.from_str(content)
        vocabulary = self._backend.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1  # a file may leave ids out
        if not (ends := [vocabulary[name] for name in ENDS if name in vocabulary]):
            raise ValueError(f"the vocabulary has no token for the end of a text ({', '.join(ENDS)})")
        self.eos_id = ends[0]
        self.bos_id, self.pad_id, self.unk_id = (
            next((vocabulary[name] for name in names if name in vocabulary), self.eos_id)
            for names in (STARTS, PADDINGS, UNKNOWNS)
        )
        self.mask_id = next((vocabulary[name] for name in MASKS if name in vocabulary), None)
        self.special = {self.pad_id, self.bos_id, self.eos_id, self.mask_id}

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        with of_library("the vocabulary cannot take these texts"):
            encodings = self._backend.encode_batch([*map(encodable, texts)], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Ids and spans; the bytes of a character share its span, and a space before a word belongs to it in GPT-2."""
        with of_library("the vocabulary cannot take this text"):
            encoding = self._backend.encode(encodable(text), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _text(self, ids: list[int]) -> str:
        with of_library("the vocabulary cannot give a text for these tokens"):
            return self._backend.decode(ids, skip_special_tokens=False)

    def piece(self, token_id: int) -> str:
        """How one token looks to a person; empty for an id that the vocabulary leaves out."""
        return self._backend.id_to_token(token_id) or ""

    def starts_word(self, token_id: int) -> bool:
        piece = self.piece(token_id)
        if isinstance(self._backend.model, models.WordPiece):
            return not piece.startswith("##")
        return token_id in self.special or piece.startswith(WHITE_SPACE)

    def write_published(self, directory: Path, start: bool, end: bool, *, max_length: int | None) -> None:
        """Writes tokenizer.json and tokenizer_config.json as `transformers` reads them: with the special tokens, and
        the start and end tokens that every text gets.

        Longer texts than `max_length` tokens are no input of the model; None: there is no limit."""
        roles = {"bos": self.bos_id, "eos": self.eos_id, "pad": self.pad_id, "unk": self.unk_id, "mask": self.mask_id}
        names = {f"{role}_token": self.piece(number) for role, number in roles.items() if number is not None}
        before, after = (f"{names['bos_token']} " if start else ""), (f" {names['eos_token']}" if end else "")
        backend = Backend.from_str(self.content.decode())
        backend.add_special_tokens(sorted(set(names.values())))
        backend.post_processor = processors.TemplateProcessing(
            single=f"{before}$A{after}",
            pair=f"{before}$A{after} $B:1{after + ':1' if end else ''}",
            special_tokens=[(names["bos_token"], self.bos_id), (names["eos_token"], self.eos_id)],
        )
        backend.save(str(directory / "tokenizer.json"))
        settings = {**names, "cls_token": names["bos_token"], "sep_token": names["eos_token"]}
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        longest = {} if max_length is None else {"model_max_length": max_length}
        text = json.dumps(settings | longest, indent=2, ensure_ascii=False)
        (directory / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
