"""Published tokenizers: tokenizer.json, as the package `tokenizers` of Hugging Face writes it, or older files."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from tokenizers import Tokenizer as Backend
from tokenizers.processors import RobertaProcessing

from transformer_jax.data.limited import Limits, run_limited
from transformer_jax.data.lines import existing, own, read_json
from transformer_jax.data.piece_files import PieceTokenizer, has_pieces, read_pieces
from transformer_jax.data.published_tokenizer import SETTINGS, PublishedTokenizer, content_of
from transformer_jax.data.subwords import (
    ENDS,
    MASKS,
    PADDINGS,
    STARTS,
    UNKNOWNS,
    ByteBPE,
    SubwordTokenizer,
    WordPiece,
    of_library,
)
from transformer_jax.data.tokenizers import Bytes, SentencePiece, TokenizerConfig

FILE, SPECIAL, MODEL = "tokenizer.json", "special_tokens_map.json", "config.json"
TEMPLATE = "chat_template.jinja"
PROGRAM = Path(__file__).with_name("tokenizer_program.py")
"""What tries a tokenizer.json in another process."""
MOST_GROWTH = 1_000
"""How many times as long normalizer and decoder of a published tokenizer may make a text."""
ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bos": (("bos_token", "cls_token"), STARTS),
    "eos": (("eos_token", "sep_token"), ENDS),
    "pad": (("pad_token",), PADDINGS),
    "unk": (("unk_token",), UNKNOWNS),
    "mask": (("mask_token",), MASKS),
}
"""What a special token is for: its keys in the settings, and what it is called where these are silent."""


@dataclass(frozen=True)
class TokenizerJson(TokenizerConfig):
    """A published vocabulary with its rules; it is read, not trained."""

    path: str = ""
    """A directory with tokenizer.json, SentencePiece models (Marian's source.spm and target.spm, T5's spiece.model,
    tokenizer.model, sentencepiece.bpe.model), vocab.txt (BERT), or vocab.json and merges.txt (GPT-2)."""
    vocab_size: Annotated[int, Ge(0)] = 0
    """Tokens of the model, which may have more than the vocabulary; 0: as many."""

    def train(self, texts: Iterable[str]) -> "TokenizerJsonTokenizer | PieceTokenizer":
        """The vocabulary of `path`; ValueError or FileNotFoundError if it cannot be used."""
        if not self.path:
            raise ValueError("data.tokenizer.path is the directory of a published tokenizer, which is not trained")
        directory = Path(self.path).expanduser()
        files = [path for file in (MODEL, SPECIAL, SETTINGS) if (path := directory / file).is_file()]
        settings = {name: value for path in files for name, value in read_json(path).items()}
        if (template := directory / TEMPLATE).is_file():
            settings["chat_template"] = own(template).read_text(encoding="utf-8")
        if not (directory / FILE).is_file() and has_pieces(directory):
            content = read_pieces(directory, settings)
            vocabulary, pair = content["ids"] | content["added"], []
        else:
            backend = _backend(directory, settings)
            content, vocabulary = {"tokenizer": json.loads(backend.to_str())}, backend.get_vocab()
            pair = backend.encode("a", "a").ids
        size = self.vocab_size or max(vocabulary.values(), default=0) + 1
        special = _special(vocabulary, settings, size)
        ends = sum(number == special["eos"] for number in pair)
        doubled = ends > 2 or settings.get("model_type") == "xlm-roberta"
        content |= {"vocab_size": self.vocab_size, "special": special, "between": 2 if doubled else 1}
        return self._restored(json.dumps(content | {"settings": _kept(settings)}).encode())

    def _restored(self, content: bytes) -> "TokenizerJsonTokenizer | PieceTokenizer":
        return PieceTokenizer(content) if "models" in json.loads(content) else TokenizerJsonTokenizer(content)


def _backend(directory: Path, settings: Mapping[str, Any]) -> Backend:
    """The library's tokenizer from the files that a directory has."""
    older = not (directory / FILE).is_file()
    if older and (directory / "vocab.txt").is_file():
        lowercase = bool(settings.get("do_lower_case", True))
        backend = WordPiece(path=str(own(directory / "vocab.txt")), lowercase=lowercase).backend()
    elif older and (directory / "vocab.json").is_file():
        for name in ("vocab.json", "merges.txt"):
            own(existing(directory / name))
        backend = ByteBPE(path=str(directory)).backend()
        start, end = backend.token_to_id("<s>"), backend.token_to_id("</s>")
        if settings.get("model_type") in ("bart", "roberta") and start is not None and end is not None:
            backend.post_processor = RobertaProcessing(("</s>", end), ("<s>", start), add_prefix_space=False)
    else:
        others = "the published tokenizer (or vocab.txt, or vocab.json with merges.txt)"
        backend = _checked(existing(directory / FILE, others))
    backend.no_truncation()
    backend.no_padding()
    return backend


def _checked(path: Path) -> Backend:
    """The library's tokenizer of a file. It aborts the process at some that it is not given here."""
    content = read_json(path)
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = [*vocabulary.values()] if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in (added if isinstance(added, list) else []) if isinstance(token, dict)]
    count = len(ids) + (len(vocabulary) if isinstance(vocabulary, list) else 0)
    if wrong := [number for number in ids if not isinstance(number, int) or not 0 <= number < 2 * count]:
        raise ValueError(f"{path} has an id {wrong[0]!r}, which is no number of one of {count} tokens")
    try:
        growth = max(_growth(content.get(part)) for part in ("normalizer", "decoder"))
    except RecursionError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if growth > MOST_GROWTH:
        raise ValueError(f"{path} makes texts more than {MOST_GROWTH:,} times as long")
    # Neither is used here, and a padding may be of any length; with dropout a text has other ids each time.
    content |= {"padding": None, "truncation": None}
    if isinstance(model, dict):
        model["dropout"] = None
    text = json.dumps(content)
    _try(text, str(path))
    with of_library(f"{path} cannot be used"):
        return Backend.from_str(text)


def _try(content: str, path: str) -> None:
    """Raises ValueError for a tokenizer at which the library aborts its process, or takes too long."""
    limits = Limits(seconds=10 + len(content) // 2**20, memory=2**30 + 32 * len(content))
    run_limited(PROGRAM, content, limits, path)


def _growth(part: Any) -> int:
    """How many times as long a normalizer or decoder may make a text, one behind the other."""
    if not isinstance(part, dict):
        return 1
    inner = [each for name in ("normalizers", "decoders") for each in part.get(name) or () if isinstance(each, dict)]
    put = part.get("content") or part.get("prepend") or ""
    letters = len(put) if part.get("type") in ("Replace", "Prepend") and isinstance(put, str) else 1
    return max(letters, 1) * math.prod(map(_growth, inner))


def _special(vocabulary: Mapping[str, int], settings: Mapping[str, Any], size: int) -> dict[str, int | None]:
    """The ids of special tokens, by what they are for."""
    special: dict[str, int | None] = {}
    for role, (keys, names) in ROLES.items():
        stated = [settings.get(key) for key in keys]
        named = [content_of(each) for each in stated if each]
        ids = [vocabulary[name] for name in (*named, *names) if isinstance(name, str) and name in vocabulary]
        special[role] = ids[0] if ids else None
    number = settings.get("eos_token_id")
    if special["eos"] is None and number is not None:
        special["eos"] = number
    if special["eos"] is None:
        raise ValueError(f"the published tokenizer has no token for the end of a text ({', '.join(ROLES['eos'][0])})")
    # A model that writes a text after having read another begins with a token of its own.
    if (start := settings.get("decoder_start_token_id")) is not None:
        special["bos"] = start
    for role, number in special.items():
        if number is not None and (type(number) is not int or not 0 <= number < size):
            raise ValueError(f"the token for {role} is {number!r}, which is none of the model's {size:,} tokens")
    return special


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that go back with the tokenizer: the names of its special tokens and its template."""
    wanted = [key for keys, _ in ROLES.values() for key in keys] + [
        "add_bos_token",
        "added_tokens_decoder",
        "additional_special_tokens",
        "chat_template",
        "extra_ids",
        "extra_special_tokens",
        "model_max_length",
        "src_lang",
        "tokenizer_class",
    ]
    return {key: settings[key] for key in wanted if key in settings}


class TokenizerJsonTokenizer(PublishedTokenizer, SubwordTokenizer):
    """The tokenizer of a tokenizer.json."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self._backend = Backend.from_str(json.dumps(self.published["tokenizer"], ensure_ascii=False))
        self.take_ids(max(self._backend.get_vocab().values()) + 1)
        self.starts = self._backend.encode("a").ids[:1] == [self.bos_id]

    def around(self) -> tuple[list[int], list[int]]:
        whole, text = (self._backend.encode("a", add_special_tokens=special).ids for special in (True, False))
        places = [i for i in range(len(whole) - len(text) + 1) if whole[i : i + len(text)] == text]
        if len(whole) == len(text) or not places:  # it has no template
            return super().around()
        return whole[: places[0]], whole[places[0] + len(text) :]

    def write_published(self, directory: Path) -> None:
        """Writes tokenizer.json and its settings, as they are published."""
        self.write_json(directory / FILE, self.published["tokenizer"])
        self.write_json(directory / SETTINGS, self.published["settings"])


TokenizerConfig.kinds = {
    "sentence_piece": SentencePiece,
    "word_piece": WordPiece,
    "byte_bpe": ByteBPE,
    "bytes": Bytes,
    "tokenizer_json": TokenizerJson,
}
