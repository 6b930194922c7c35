"""Published SentencePiece models, with the ids that the model they belong to has for their pieces."""

import base64
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from transformer_jax.data.lines import own, read_json
from transformer_jax.data.published_tokenizer import SETTINGS, PublishedTokenizer, content_of
from transformer_jax.data.tokenizers import WORD_BEGIN, Offsets, encodable, ids_and_spans

PAIR = ("source.spm", "target.spm")
"""Marian's files: one model of pieces for each side, and vocab.json for both."""
FAIRSEQ, VOCABULARY = "sentencepiece.bpe.model", "vocab.json"
ADDED = "added_tokens.json"
NAMES = (FAIRSEQ, "spiece.model", "tokenizer.model", "spm.model")
FAIRSEQ_PIECES = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
"""How fairseq's vocabularies begin; all other pieces have the id of SentencePiece and one more."""
SENTINEL = "<extra_id_{}>"
"""T5's places for spans that were taken out, the last ids of its vocabulary, counted from the end."""
MOST_SENTINELS, LARGEST_ID = 10_000, 10_000_000
LANGUAGE = re.compile(r">>[^<>\s]+<<")
"""How Marian's languages look."""


def has_pieces(directory: Path) -> bool:
    """Whether there are files that `read_pieces` reads."""
    return all((directory / name).is_file() for name in PAIR) or any((directory / name).is_file() for name in NAMES)


def read_pieces(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a tokenizer, from a directory's files and the `settings` of its tokenizer and model.

    Raises ValueError for files that are damaged or do not fit together.
    """
    pair = all((directory / name).is_file() for name in PAIR)
    names = PAIR if pair else [name for name in NAMES if (directory / name).is_file()][:1]
    contents = [own(directory / name).read_bytes() for name in names]
    models = [_processor(content, directory / name) for content, name in zip(contents, names, strict=True)]
    pieces = [models[0].id_to_piece(number) for number in range(models[0].vocab_size())]
    codes, has_table = _codes(settings), (directory / VOCABULARY).is_file()
    ids, (added, shown) = {piece: number for number, piece in enumerate(pieces)}, _stated(directory, settings)
    if pair and not has_table:
        raise ValueError(f"{directory} has {' and '.join(PAIR)}, but no {VOCABULARY}, which numbers their pieces")
    if has_table:
        ids = _vocabulary(directory / VOCABULARY)
        added |= {piece: number for piece, number in ids.items() if LANGUAGE.fullmatch(piece)}
        added |= {code: len(ids) + i for i, code in enumerate(code for code in codes if code not in ids)}
    elif names[0] == FAIRSEQ:
        ids = FAIRSEQ_PIECES | {piece: number + 1 for piece, number in ids.items() if number > 2}
        codes = [code for code in codes if code not in ids and code != "<mask>"]
        added |= {code: len(pieces) + 1 + i for i, code in enumerate([*codes, "<mask>"])}
    elif settings.get("model_type") in ("t5", "mt5") or "extra_ids" in settings:
        count = settings.get("extra_ids", 100)
        if type(count) is not int or not 0 <= count <= MOST_SENTINELS:
            raise ValueError(f"extra_ids is a number from 0 to {MOST_SENTINELS:,}, not {count!r}")
        added |= {SENTINEL.format(i): len(pieces) + count - 1 - i for i in range(count)}
    encoded = [base64.b64encode(content).decode() for content in contents]
    content = {"models": encoded, "names": [*names], "vocabulary": has_table, "ids": ids, "added": added}
    return content | {"shown": shown, "stated": _vocabulary(directory / ADDED) if (directory / ADDED).is_file() else {}}


def _processor(content: bytes, path: Path | str) -> Any:
    processor: Any = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a SentencePiece model") from error
    return processor


def _codes(settings: Mapping[str, Any]) -> list[str]:
    """The names of further special tokens, mostly languages, in their order; ValueError for what is none."""
    codes = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    codes = [*codes.values()] if isinstance(codes, dict) else codes
    codes = [content_of(code) for code in codes] if isinstance(codes, list) else [None]
    if not all(isinstance(code, str) and code for code in codes):
        raise ValueError("additional_special_tokens are a list of texts, none of them empty")
    return [*dict.fromkeys(code for code in codes if code)]


def _stated(directory: Path, settings: Mapping[str, Any]) -> tuple[dict[str, int], list[str]]:
    """The tokens that were added with their ids, and those that, added as text, stay in texts that are read back.

    Raises ValueError for a table that is none.
    """
    decoder = settings.get("added_tokens_decoder") or {}
    path, shown = directory / ADDED, []
    stated = dict(_vocabulary(path)) if path.is_file() else {}
    if not isinstance(decoder, dict):
        raise ValueError("added_tokens_decoder is a table of ids and their tokens")
    for number, token in decoder.items():
        content = content_of(token)
        if not str(number).isdecimal() or len(str(number)) > 9 or not isinstance(content, str) or not content:
            raise ValueError(f"added_tokens_decoder has {number!r}, which is no id of a token")
        stated[content] = int(number)
        shown += [content] if isinstance(token, dict) and token.get("special") is False else []
    return stated, shown


def _vocabulary(path: Path) -> dict[str, int]:
    content = read_json(path)
    ids = [*content.values()]
    if any(type(number) is not int or not 0 <= number < LARGEST_ID for number in ids) or len({*ids}) < len(ids):
        raise ValueError(f"{path} is no table of pieces and their ids, each of one")
    return content


class PieceTokenizer(PublishedTokenizer):
    """The tokenizer of such files; names of special tokens, languages and T5's sentinels are tokens in texts, too."""

    def __init__(self, content: bytes, *, side: int = 0):
        super().__init__(content)
        decoded = [base64.b64decode(model) for model in self.published["models"]]
        self._processors = [_processor(model, "a published tokenizer") for model in decoded]
        self._side = min(side, len(decoded) - 1)
        self._ids, self._added = self.published["ids"], self.published["added"]
        self._pieces = {number: piece for piece, number in (self._ids | self._added).items()}
        self.take_ids(max(self._pieces) + 1)
        self.starts = bool(self.published["settings"].get("add_bos_token", True))
        shown = {*self.published.get("shown", [])}
        hidden = [piece for piece in self._added if piece not in shown and not piece.startswith("<extra_id_")]
        self.special |= {*map(self._added.get, hidden)}
        special = self.published["special"].values()
        marked = {number for number in (*special, *self._added.values()) if number is not None}
        self._marked = {piece: number for number in marked if (piece := self._pieces.get(number))}
        self._marks = re.compile("|".join(map(re.escape, sorted(self._marked, key=len, reverse=True))) or r"(?!)")

    def around(self) -> tuple[list[int], list[int]]:
        """With the language of the settings in front of the text, or behind it, where mBART-25 has it."""
        settings = self.published["settings"]
        names = [str(settings.get("src_lang")), f"__{settings.get('src_lang')}__"]
        language = [self._added[name] for name in names if name in self._added][:1]
        behind = settings.get("tokenizer_class") == "MBartTokenizer"
        return ([], [self.eos_id, *language]) if behind else (language, [self.eos_id])

    @functools.cached_property
    def for_targets(self) -> "PieceTokenizer":
        """The tokenizer of the other side, with the same ids."""
        return PieceTokenizer(self.content, side=1) if len(self._processors) > 1 else self

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self._encode(text, spans=False)[0] for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        return self._encode(text, spans=True)

    def _encode(self, text: str, *, spans: bool) -> tuple[list[int], Offsets]:
        """Ids, and on demand spans: of the stretches between codes and sentinels, and of these."""
        ids: list[int] = []
        offsets: Offsets = []
        text, done, processor = encodable(text), 0, self._processors[self._side]
        for mark in [*self._marks.finditer(text), None]:
            start = len(text) if mark is None else mark.start()
            if stretch := text[done:start]:
                # By their names: one that this side lacks may be a piece of the other.
                ids += [self._ids.get(piece, self.unk_id) for piece in processor.encode(stretch, out_type=str)]
                found = ids_and_spans(processor, stretch)[1] if spans else []
                offsets += [(done + begin, done + end) for begin, end in found]
            if mark is not None:
                ids.append(self._marked[mark[0]])
                offsets.append(mark.span())
                done = mark.end()
        return ids, offsets

    def _text(self, ids: list[int]) -> str:
        """Stretches of pieces, each read by the model of the targets, and sentinels between them."""
        words: list[str] = []
        stretch: list[str] = []
        for token_id in [*ids, None]:
            piece = None if token_id is None else self.piece(token_id)
            if piece is not None and piece not in self._added:
                stretch.append(piece)
                continue
            words += [self._processors[-1].decode_pieces(stretch)] if stretch else []
            words += [piece] if piece else []
            stretch = []
        return " ".join(words)

    def piece(self, token_id: int) -> str:
        return self._pieces.get(token_id, "")

    def starts_word(self, token_id: int) -> bool:
        return token_id in self.special or self.piece(token_id).startswith(WORD_BEGIN)

    def write_published(self, directory: Path) -> None:
        """Writes the files as they were published, and their settings."""
        for name, model in zip(self.published["names"], self.published["models"], strict=True):
            (directory / name).write_bytes(base64.b64decode(model))
        self.write_json(directory / SETTINGS, self.published["settings"])
        if self.published["vocabulary"]:
            self.write_json(directory / VOCABULARY, self._ids)
        if stated := self.published.get("stated"):
            self.write_json(directory / ADDED, stated)
