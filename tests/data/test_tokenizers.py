import io
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from transformer_jax.data.tokenizers import Bytes, SentencePiece, SentencePieceTokenizer, Tokenizer, _split_stretches

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "The dog and the fox and the boxer all run over the dike, over and over.",
    "Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis.",
]
STRANGE = [
    "",
    " ",
    "  two  spaces,\ttab and trailing ",
    "line\nbreak\r\nand\x85others\u2028",
    "NUL \0 and \x01 control",
    "ﬁ ² Ａ ½ … \xa0\u200b\ufeff",
    "e\u0301 é 👩‍👩‍👧 𝒳 ١٢ 漢字 ไทย",
    "<s> </s> <unk> ⁇",
]


def tokenizer(**fields) -> SentencePieceTokenizer:
    return SentencePiece(**{"vocab_size": 62, **fields}).train(TEXTS)


@pytest.mark.parametrize("model_type", ["bpe", "unigram", "char", "word"])
def test_text_of_the_corpus_comes_back(model_type):
    trained = tokenizer(model_type=model_type)
    for text in TEXTS:
        ids = trained.encode(text)
        assert trained.unk_id not in ids
        assert trained.decode(ids) == text


def test_trained_vocabularies_have_the_wanted_size_and_special_tokens():
    for trained in (tokenizer(), tokenizer(model_type="unigram")):
        assert trained.vocab_size == 62
        assert (trained.pad_id, trained.unk_id, trained.bos_id, trained.eos_id) == (0, 1, 2, 3)
        assert not {0, 2, 3} & {i for ids in trained.encode_batch([*TEXTS, *STRANGE]) for i in ids}
    characters = tokenizer(model_type="char", vocab_size=8_000)
    assert characters.vocab_size == 4 + len(set("".join(TEXTS)))


def test_pieces_are_what_a_person_reads():
    trained = tokenizer(model_type="word")
    assert [trained.piece(i) for i in trained.encode("the dog")] == ["▁the", "▁dog"]
    assert [Bytes().train([]).piece(i) for i in (0, 3, 4 + ord("a"), 4 + 0xC3)] == ["<pad>", "</s>", "a", "\\xc3"]


def test_characters_and_bytes_bring_back_any_text_exactly():
    generator = random.Random(0)
    points = [generator.choice((generator.randrange(1, 0xD800), ord(" "))) for _ in range(2_000)]
    anything = ["".join(map(chr, points[i : i + 40])) for i in range(0, len(points), 40)]
    # SentencePiece keeps these for itself (the tab until version 0.2.2), and does not learn them from a text.
    reserved = re.compile("[\u2581\u2585\0\t]|<.*?>")
    known = [reserved.sub("", text) for text in [*TEXTS, *STRANGE, *anything]]
    characters = SentencePiece(model_type="char").train([f"{text}." for text in known])
    for text in known:
        assert characters.unk_id not in characters.encode(text)
        assert len(characters.encode(text)) == len(text)
        assert characters.decode(characters.encode(text)) == text
    for text in [*STRANGE, *anything]:
        assert Bytes().train([]).decode(Bytes().train([]).encode(text)) == text


def test_bytes_are_four_more_than_the_byte():
    tokenizer = Bytes().train([])
    assert tokenizer.encode("aé") == [ord("a") + 4, 0xC3 + 4, 0xA9 + 4]
    assert max(tokenizer.encode("\U0010ffff")) < tokenizer.vocab_size == 260


def test_byte_fallback_has_no_unknown_characters():
    trained = tokenizer(byte_fallback=True, vocab_size=340)
    assert trained.unk_id not in trained.encode("漢字 and 👍")
    assert trained.decode(trained.encode("漢字 and 👍")) == "漢字 and 👍"
    assert tokenizer().unk_id in tokenizer().encode("漢字")


def test_normalization_is_a_field():
    assert tokenizer().decode(tokenizer().encode("Ｔhe dog")) == "The dog"
    lower = tokenizer(normalization="nmt_nfkc_cf", vocab_size=70)
    assert lower.decode(lower.encode("The DOG")) == "the dog"
    faithful = SentencePiece(vocab_size=60, normalization="identity").train([*TEXTS, "m² … \xa0"] * 2)
    assert faithful.decode(faithful.encode("m² …")) == "m² …"


def test_digits_can_be_split():
    texts = ["in 2017 and 2017 and 2017"] * 5
    assert len(SentencePiece(vocab_size=20).train(texts).encode("2017")) < 4
    split = SentencePiece(vocab_size=16, split_digits=True).train(texts)
    assert [split.piece(i) for i in split.encode("2017")][-4:] == list("2017")


@pytest.mark.parametrize("trained", [tokenizer(), tokenizer(model_type="char"), Bytes().train([])])
def test_batches_encode_as_single_texts_do(trained: Tokenizer):
    texts = [*TEXTS, *STRANGE, "lone \udce9 surrogate"]
    assert trained.encode_batch(texts) == [trained.encode(text) for text in texts]
    assert trained.encode_batch([]) == []


@pytest.mark.parametrize("trained", [tokenizer(), Bytes().train([])])
def test_decoding_drops_special_tokens_and_refuses_unknown_ids(trained: Tokenizer):
    ids = trained.encode("The fox")
    padded = [trained.bos_id, *ids, trained.eos_id, trained.pad_id, trained.pad_id]
    assert trained.decode(padded) == trained.decode(np.array(padded, np.int32).tolist()) == "The fox"
    for wrong in (-1, trained.vocab_size):
        with pytest.raises(ValueError, match=f"token ids are 0 to {trained.vocab_size - 1}, not {wrong}"):
            trained.decode([*ids, wrong])


def test_training_is_deterministic_and_silent():
    code = (
        "from transformer_jax.data.tokenizers import SentencePiece\n"
        f"texts = {TEXTS!r}\n"
        "for kind in ('bpe', 'unigram', 'char', 'word'):\n"
        "    print(SentencePiece(vocab_size=62, model_type=kind).train(texts).fingerprint)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.stderr == ""
    here = [tokenizer(model_type=kind).fingerprint for kind in ("bpe", "unigram", "char", "word")]
    assert result.stdout.split() == here
    assert len(set(here)) == 4


def test_a_large_corpus_is_sampled_from_all_over_and_always_alike():
    corpus = [chr(0x4E00 + i) for i in range(2_000)]

    def characters() -> set[str]:
        trained = SentencePiece(model_type="char", train_sentences=100).train(iter(corpus))
        return {trained.piece(i) for i in range(4, trained.vocab_size)} & set(corpus)

    chosen = characters()
    assert len(chosen) == 100 and chosen == characters()
    quarters = [sum(character in chosen for character in corpus[i : i + 500]) for i in range(0, 2_000, 500)]
    assert all(10 < count < 50 for count in quarters)


def test_long_texts_count_in_training():
    trained = SentencePiece(model_type="char").train(["abc", "xyz " * 5_000])
    assert trained.unk_id not in trained.encode("xyz")


def test_long_stretches_without_a_space_do_not_end_the_process():
    draw = random.Random(0)
    # Counted after normalisation: U+337F becomes four characters.
    code = (
        "import sys; from transformer_jax.data.tokenizers import SentencePiece; texts = eval(sys.stdin.read())\n"
        "for kind in ('bpe', 'unigram', 'word', 'char'):\n"
        "    print(SentencePiece(model_type=kind, vocab_size=70).train(texts).vocab_size)"
    )
    texts = repr([*TEXTS, *("".join(draw.choices(letters, k=70_000)) for letters in ("abcdef", "\u337f\u4e00"))])
    result = subprocess.run([sys.executable, "-c", code], input=texts, capture_output=True, text=True)
    assert len(result.stdout.split()) == 4, result.stderr


def test_only_stretches_that_are_too_long_are_split_stretches():
    fits = ["a" * 65_000, "\u337f" * 16_000, " ".join(["b" * 60_000] * 3)]
    assert [_split_stretches(text, 65_000) for text in fits] == fits
    for text in ("ab " + "a" * 65_001, "\u337f" * 17_000):
        divided = _split_stretches(text, 65_000)
        assert divided.replace(" ", "") == text.replace(" ", "") and max(map(len, divided.split())) < 65_000 / 18


def test_a_vocabulary_says_how_many_texts_do_not_come_back_and_what_helps(caplog):
    persian = ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0631\u0641\u062a"] * 3
    texts = [*TEXTS, *persian, "more  spaces "]

    def said(**fields) -> str:
        caplog.clear()
        SentencePiece(**{"vocab_size": 75, **fields}).train(texts)
        return caplog.text

    assert "3 of 8 training texts do not come back" in said() and "U+200C ZERO WIDTH NON-JOINER" in said()
    assert "data.tokenizer.normalization nmt_nfkc" in said(model_type="unigram")
    assert said(normalization="nfkc") == said(normalization="identity") == said(model_type="char") == ""
    few = said(model_type="char", vocab_size=30)
    assert "have unknown characters or words (raise data.tokenizer.vocab_size" in few


def test_nul_newlines_and_surrogates_do_not_disturb_training():
    strange = [*TEXTS, *STRANGE, "lone \udce9", "a\0b\nc"] * 2
    for model_type in ("bpe", "unigram", "char", "word"):
        trained = SentencePiece(vocab_size=90, model_type=model_type).train(strange)
        assert trained.decode(trained.encode(TEXTS[0])) == TEXTS[0]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_vocabulary_too_large_names_the_largest_that_works(model_type):
    with pytest.raises(ValueError, match=r"^data.tokenizer.vocab_size 5000 .* at most \d+$") as error:
        tokenizer(model_type=model_type, vocab_size=5_000)
    most = int(str(error.value).split()[-1])
    assert tokenizer(model_type=model_type, vocab_size=most).vocab_size == most
    with pytest.raises(ValueError, match=f"at most {most}"):
        tokenizer(model_type=model_type, vocab_size=most + 1)


def test_a_vocabulary_too_small_names_the_smallest_that_works():
    with pytest.raises(ValueError, match=r"vocab_size 10 is too few .* at least (\d+)") as error:
        tokenizer(vocab_size=10)
    least = int(str(error.value).split("at least ")[1].split(",")[0])
    assert tokenizer(vocab_size=least).vocab_size == least


@pytest.mark.parametrize("texts", [[], [""], [" ", "\n"]])
def test_an_empty_corpus_is_an_error(texts):
    with pytest.raises(ValueError, match="there is no text to train a vocabulary on"):
        SentencePiece().train(texts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "wordpiece"}, "model_type is bpe, unigram, word, char, not 'wordpiece'"),
        ({"normalization": "nfc"}, "normalization is .* not 'nfc'"),
        ({"character_coverage": 0.5}, "character_coverage must be at least 0.98 and at most 1, not 0.5"),
        ({"vocab_size": 0}, "vocab_size must be at least 5, not 0"),
        ({"train_sentences": 0}, "train_sentences must be at least 1, not 0"),
    ],
)
def test_fields_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        tokenizer(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [SentencePiece(vocab_size=62), Bytes()])
def test_what_was_saved_is_loaded(tmp_path, config):
    trained = config.train(TEXTS)
    trained.save(tmp_path / "tokenizer", "shared")
    loaded = config.load(tmp_path / "tokenizer", "shared")
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.encode_batch(TEXTS) == trained.encode_batch(TEXTS)
    assert len(list((tmp_path / "tokenizer").iterdir())) == 1
    with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path}/tokenizer/target"):
        config.load(tmp_path / "tokenizer", "target")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    old = tokenizer()
    old.save(tmp_path, "shared")

    def fail(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        tokenizer(vocab_size=65).save(tmp_path, "shared")
    assert SentencePiece().load(tmp_path, "shared").fingerprint == old.fingerprint


def test_a_path_replaces_training(tmp_path):
    tokenizer().save(tmp_path, "mine")
    loaded = SentencePiece(path=str(tmp_path / "mine.model")).train([])
    assert loaded.fingerprint == tokenizer().fingerprint


@pytest.mark.parametrize("content", [b"", b"not a model\n", b"\n\x0e\n\x05<unk>"])
def test_a_file_that_is_no_model_is_named(tmp_path, content, capfd):
    (tmp_path / "broken.model").write_bytes(content)
    with pytest.raises(ValueError, match="broken.model, data.tokenizer.path, is not a SentencePiece model"):
        SentencePiece(path=str(tmp_path / "broken.model")).train([])
    with pytest.raises(FileNotFoundError, match="there is no file .*missing.model, data.tokenizer.path"):
        SentencePiece(path=str(tmp_path / "missing.model")).train([])
    assert capfd.readouterr().err == ""


PUBLISHED = {  # pad, unk, bos, eos
    "albert-unigram-30000": (0, 1, 2, 3),
    "botchan-unigram-1000": (0, 0, 1, 2),
    "bpe-1000": (0, 0, 1, 2),
    "ja-unigram": (0, 0, 1, 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_encode_and_decode_as_recorded(shared_data, name):
    directory = shared_data / "tokenizers" / "sentencepiece"
    trained = SentencePiece(path=str(directory / f"{name}.model")).train([])
    assert (trained.pad_id, trained.unk_id, trained.bos_id, trained.eos_id) == PUBLISHED[name]
    lines = (directory / f"{name}.encodings.jsonl").read_bytes().decode().rstrip("\n").split("\n")
    recorded = [json.loads(line) for line in lines]
    assert len(recorded) == 200
    assert trained.encode_batch([row["text"] for row in recorded]) == [row["ids"] for row in recorded]
    for row in recorded:
        ids, offsets = trained.encode_with_offsets(row["text"])
        assert ids == row["ids"]
        assert [list(span) for span in offsets] == row["offsets"]
        known = [(token_id, token) for token_id, token in zip(ids, row["tokens"], strict=True) if token_id]
        assert [trained.piece(token_id) for token_id, _ in known] == [
            "<unk>" if token_id == trained.unk_id else token for token_id, token in known
        ]
    assert [trained.decode(row["ids"]) for row in recorded] == [row["decoded"] for row in recorded]


def test_offsets_point_into_the_text_before_normalisation():
    trained = tokenizer()
    text = "Ｔhe  dog ﬁ \udce9"
    ids, offsets = trained.encode_with_offsets(text)
    assert ids == trained.encode(text)
    assert "".join(text[start:end] for start, end in offsets).startswith("Ｔhe  dog")
    assert offsets[-1][1] == len(text)
    ids, offsets = Bytes().train([]).encode_with_offsets("aé\udce9")
    assert ids == [ord("a") + 4, 0xC3 + 4, 0xA9 + 4, ord("?") + 4]
    assert offsets == [(0, 1), (1, 2), (1, 2), (2, 3)]


@pytest.mark.parametrize("model_type", ["bpe", "unigram", "char", "word"])
def test_a_mask_is_a_token_that_no_text_becomes(model_type):
    texts = [f"{text} <mask>" for text in TEXTS]
    masked = SentencePiece(vocab_size=66, model_type=model_type, mask=True).train(texts)
    assert masked.mask_id is not None and masked.piece(masked.mask_id) == "<mask>"
    assert masked.mask_id not in masked.encode("a <mask> and<mask>")
    assert masked.decode([*masked.encode("The dog"), masked.mask_id]) == "The dog"
    assert SentencePiece(vocab_size=66, model_type=model_type).train(texts).mask_id is None


def test_bytes_have_a_mask_on_request(tmp_path):
    plain, masked = Bytes().train([]), Bytes(mask=True).train([])
    assert (plain.mask_id, masked.mask_id, masked.vocab_size) == (None, 260, 261)
    assert masked.decode([260, *masked.encode("a"), 260]) == "a"
    assert masked.piece(260) == "<mask>"
    assert plain.fingerprint != masked.fingerprint
    masked.save(tmp_path, "shared")
    assert Bytes(mask=True).load(tmp_path, "shared").mask_id == 260


def test_words_start_where_a_space_or_a_special_token_is():
    trained = tokenizer(model_type="bpe", mask=True)
    ids = trained.encode("The quick fox")
    starts = [trained.piece(i) for i in ids if trained.starts_word(i)]
    assert len(starts) == 3 and all(piece.startswith("▁") for piece in starts)
    assert len(ids) > 3
    special = (trained.bos_id, trained.eos_id, trained.pad_id, trained.mask_id)
    assert all(trained.starts_word(i) for i in special if i is not None)
    plain = Bytes().train([])
    assert [plain.starts_word(i) for i in (*plain.encode("a b\nc"), 2)] == [False, True, False, True, False, True]


def test_a_model_without_start_begins_with_padding_and_one_without_end_is_refused():
    def train(**special) -> SentencePieceTokenizer:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=62, minloglevel=2, **special
        )
        return SentencePieceTokenizer(model.getvalue())

    like_t5 = train(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    assert (like_t5.pad_id, like_t5.unk_id, like_t5.bos_id, like_t5.eos_id) == (0, 2, 0, 1)
    with pytest.raises(ValueError, match="no token for the end of a text"):
        train(pad_id=0, eos_id=-1, unk_id=2, bos_id=1)
