import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from transformer_jax.data.subwords import ByteBPE, SubwordTokenizer, WordPiece
from transformer_jax.data.tokenizer_json import TokenizerJson
from transformer_jax.data.tokenizers import Tokenizer, TokenizerConfig
from transformer_jax.tasks.question_answering import windows
from transformer_jax.tasks.sequences import join_parts

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "The dog and the fox and the boxer all run over the dike, over and over.",
    "Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis.",
]
CORPUS = TEXTS * 3
STRANGE = ["", " ", "  two\tspaces\r\n", "NUL \0 \x01", "e\u0301 👩‍👩‍👧 漢字 ไทย \U0010ffff", "lone \udce9 surrogate"]
INJECTION = "a[SEP]b [MASK] [PAD]<|endoftext|> <|endoftext|>c </s> <mask>"
SIZES: list[TokenizerConfig] = [WordPiece(vocab_size=130), ByteBPE(vocab_size=300)]


def published(directory: Path, name: str) -> SubwordTokenizer:
    if name == "gpt2":
        return ByteBPE(path=str(directory / name)).train([])
    return WordPiece(path=str(directory / name / "vocab.txt")).train([])


PUBLISHED = {  # vocabulary size, pad, unk, bos, eos, mask
    "bert-base-uncased": (30_522, 0, 100, 101, 102, 103),
    "gpt2": (50_257, 50_256, 50_256, 50_256, 50_256, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_vocabularies_encode_and_decode_as_recorded(shared_data, name):
    trained = published(shared_data / "tokenizers", name)
    special = (trained.pad_id, trained.unk_id, trained.bos_id, trained.eos_id, trained.mask_id)
    assert (trained.vocab_size, *special) == PUBLISHED[name]
    lines = (shared_data / "tokenizers" / name / "encodings.jsonl").read_bytes().decode().rstrip("\n").split("\n")
    recorded = [json.loads(line) for line in lines]
    assert len(recorded) == 200
    assert trained.encode_batch([row["text"] for row in recorded]) == [row["ids"] for row in recorded]
    for row in recorded:
        ids, offsets = trained.encode_with_offsets(row["text"])
        assert ids == row["ids"] == trained.encode(row["text"])
        assert [trained.piece(token_id) for token_id in ids] == row["tokens"]
        assert [list(span) for span in offsets] == row["offsets"]
        assert trained.decode(ids) == row.get("decoded", row["text"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_vocabulary_survives_saving(shared_data, tmp_path, name):
    trained = published(shared_data / "tokenizers", name)
    trained.save(tmp_path, "shared")
    loaded = WordPiece().load(tmp_path, "shared")
    assert loaded.fingerprint == trained.fingerprint
    for text in [*TEXTS, *STRANGE, INJECTION]:
        assert loaded.encode_with_offsets(text) == trained.encode_with_offsets(text)
        assert loaded.decode(loaded.encode(text)) == trained.decode(trained.encode(text))


@pytest.mark.parametrize("config", SIZES)
def test_what_was_saved_is_loaded(tmp_path, config):
    trained = config.train(CORPUS)
    assert isinstance(trained, Tokenizer)
    trained.save(tmp_path / "tokenizer", "shared")
    loaded = config.load(tmp_path / "tokenizer", "shared")
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.mask_id == trained.mask_id
    assert loaded.encode_batch(TEXTS) == trained.encode_batch(TEXTS)
    assert [path.name for path in (tmp_path / "tokenizer").iterdir()] == ["shared.json"]
    with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path}/tokenizer/target.json"):
        config.load(tmp_path / "tokenizer", "target")
    (tmp_path / "broken.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match="broken.json, the tokenizer of the run, cannot be read"):
        config.load(tmp_path, "broken")


def test_trained_vocabularies_have_the_wanted_size_and_special_tokens():
    wordpiece = WordPiece(vocab_size=130).train(iter(CORPUS))
    assert wordpiece.vocab_size == 130
    special = (wordpiece.pad_id, wordpiece.unk_id, wordpiece.bos_id, wordpiece.eos_id, wordpiece.mask_id)
    assert special == (0, 1, 2, 3, 4)
    assert [wordpiece.piece(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert wordpiece.unk_id not in {i for ids in wordpiece.encode_batch(TEXTS) for i in ids}
    bpe = ByteBPE(vocab_size=300).train(iter(CORPUS))
    assert bpe.vocab_size == 300
    assert bpe.piece(bpe.eos_id) == "<|endoftext|>"
    assert bpe.eos_id == bpe.bos_id == bpe.pad_id == bpe.unk_id
    assert bpe.mask_id is None


def test_any_text_comes_back_from_bytes():
    bpe = ByteBPE(vocab_size=300).train(CORPUS)
    for text in [*TEXTS, *STRANGE, INJECTION]:
        assert bpe.decode(bpe.encode(text)) == text.replace("\udce9", "?")


def test_words_come_back_without_case_and_accents_unless_they_are_kept():
    lower = WordPiece(vocab_size=130).train(CORPUS)
    assert lower.decode(lower.encode("Über den Deich")) == "uber den deich"
    kept = WordPiece(vocab_size=160, lowercase=False).train([*TEXTS, "Über"])
    assert kept.decode(kept.encode("Über den Deich")) == "Über den Deich"


@pytest.mark.parametrize("config", SIZES)
def test_batches_encode_as_single_texts_do_and_offsets_stay_inside(config):
    trained = config.train(CORPUS)
    texts = [*TEXTS, *STRANGE]
    assert trained.encode_batch(texts) == [trained.encode(text) for text in texts]
    assert trained.encode_batch([]) == []
    for text in texts:
        ids, offsets = trained.encode_with_offsets(text)
        assert ids == trained.encode(text)
        assert len(ids) == len(offsets)
        assert all(0 <= start < end <= len(text) for start, end in offsets)


def test_offsets_give_back_the_words_as_they_were_written():
    trained = WordPiece(vocab_size=5_000).train(CORPUS)
    text = "  Zwölf \U0001f466 BOXKÄMPFER"
    _, offsets = trained.encode_with_offsets(text)
    assert [text[start:end] for start, end in offsets] == ["Zwölf", "\U0001f466", "BOXKÄMPFER"]
    bpe = ByteBPE(vocab_size=5_000).train(CORPUS)
    _, offsets = bpe.encode_with_offsets("The dog")
    assert offsets == [(0, 3), (3, 7)]


@pytest.mark.parametrize("config", SIZES)
def test_no_text_becomes_a_special_token(tmp_path, config):
    trained = config.train([*CORPUS, *[INJECTION] * 3])
    trained.save(tmp_path, "shared")
    for tokenizer in (trained, config.load(tmp_path, "shared")):
        special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id}
        assert not special & set(tokenizer.encode(INJECTION))
        assert not special & set(tokenizer.encode_with_offsets(INJECTION)[0])


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_text_becomes_a_special_token_of_a_published_vocabulary(shared_data, name):
    trained = published(shared_data / "tokenizers", name)
    special = {trained.pad_id, trained.bos_id, trained.eos_id, trained.mask_id}
    assert not special & set(trained.encode(INJECTION))


@pytest.mark.parametrize("config", SIZES)
def test_decoding_drops_special_tokens_and_refuses_unknown_ids(config):
    trained = config.train(CORPUS)
    ids = trained.encode("the fox")
    padded = [trained.bos_id, *ids, trained.eos_id, trained.pad_id]
    assert trained.decode(padded) == trained.decode(np.array(padded, np.int32).tolist()) == "the fox"
    for wrong in (-1, trained.vocab_size):
        with pytest.raises(ValueError, match=f"token ids are 0 to {trained.vocab_size - 1}, not {wrong}"):
            trained.decode([*ids, wrong])


def test_the_unknown_is_shown_where_there_is_no_mask_or_end():
    trained = WordPiece(vocab_size=130).train(CORPUS)
    assert trained.mask_id is not None
    assert trained.decode([trained.mask_id, *trained.encode("the 漢")]) == "the [UNK]"


def test_words_start_where_a_person_says():
    wordpiece, bpe = WordPiece(vocab_size=130).train(CORPUS), ByteBPE(vocab_size=300).train(CORPUS)
    for trained in (wordpiece, bpe):
        ids = trained.encode("the quick\nfox")
        assert len(ids) > 4
        starts = [trained.piece(i)[:1] for i in ids if trained.starts_word(i)]
        assert starts == (["t", "q", "f"] if trained is wordpiece else ["Ġ", "Ċ"])
        assert trained.starts_word(trained.eos_id)


def test_training_is_deterministic_and_silent():
    code = (
        "from transformer_jax.data.subwords import ByteBPE, WordPiece\n"
        f"texts = {CORPUS!r}\n"
        "for config in (WordPiece(vocab_size=130), ByteBPE(vocab_size=300)):\n"
        "    print(config.train(texts).fingerprint)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.stderr == ""
    here = [config.train(CORPUS).fingerprint for config in SIZES]
    assert result.stdout.split() == here == [config.train(CORPUS).fingerprint for config in SIZES]


def test_a_vocabulary_larger_than_the_text_is_as_large_as_the_text_gives():
    for config in (WordPiece(vocab_size=5_000), ByteBPE(vocab_size=5_000)):
        trained = config.train(CORPUS)
        assert trained.vocab_size < 450
        assert max(i for ids in trained.encode_batch(TEXTS) for i in ids) < trained.vocab_size


def test_a_vocabulary_too_small_names_the_smallest_that_works():
    with pytest.raises(ValueError, match=r"^data.tokenizer.vocab_size 20 is too few .* at least \d+$") as error:
        WordPiece(vocab_size=20).train(CORPUS)
    least = int(str(error.value).split()[-1])
    assert WordPiece(vocab_size=least).train(CORPUS).vocab_size == least
    with pytest.raises(ValueError, match=f"at least {least}"):
        WordPiece(vocab_size=least - 1).train(CORPUS)
    with pytest.raises(ValueError, match="data.tokenizer.vocab_size is at least 257 .*, not 256"):
        ByteBPE(vocab_size=256).train(CORPUS)
    assert ByteBPE(vocab_size=257).train(CORPUS).vocab_size == 257


@pytest.mark.parametrize("config", [WordPiece(), ByteBPE()])
@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_an_empty_corpus_is_an_error(config, texts):
    with pytest.raises(ValueError, match="there is no text to train a vocabulary on"):
        config.train(texts)


def test_files_that_are_missing_or_wrong_are_named(tmp_path, capfd):
    def refused(config: TokenizerConfig, message: str, kind: type[Exception] = ValueError) -> None:
        with pytest.raises(kind, match=message) as error:
            config.train([])
        assert "\n" not in str(error.value)

    vocabulary, bpe = tmp_path / "vocab.txt", ByteBPE(path=str(tmp_path))
    refused(WordPiece(path=str(vocabulary)), "no file .*vocab.txt, data.tokenizer.path", FileNotFoundError)
    vocabulary.write_bytes(b"\xff\xfe")
    refused(WordPiece(path=str(vocabulary)), "vocab.txt, data.tokenizer.path, is not a vocab.txt: ")
    vocabulary.write_text("[PAD]\n[CLS]\n[SEP]\nthe\n")
    refused(WordPiece(path=str(vocabulary)), r"is not a vocab.txt of BERT: it has no \[UNK\]")

    refused(bpe, "no file .*vocab.json, of data.tokenizer.path", FileNotFoundError)
    (tmp_path / "vocab.json").write_text("{")
    refused(bpe, "no file .*merges.txt, of data.tokenizer.path", FileNotFoundError)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    refused(bpe, "data.tokenizer.path, cannot be read: ")
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "<|endoftext|>": 2}')
    refused(bpe, "is not byte-level BPE: vocab.json has no '!'")
    write_bpe(tmp_path, ["<|endoftext|>"], "a b")
    refused(bpe, "is not byte-level BPE: vocab.json has no 'ab'")
    write_bpe(tmp_path, ["ab"], "a b")
    table = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(table | {"ab": 0}))
    refused(bpe, "two pieces with one id")
    write_bpe(tmp_path, ["ab"], "a b")
    refused(bpe, r"no token for the end of a text \(\[SEP\], </s>, <\|endoftext\|>\)")
    assert capfd.readouterr().err == ""


def write_bpe(directory: Path, more: list[str], merge: str) -> None:
    """A vocabulary of every byte, of `more`, and of one merge."""
    pieces = ByteBPE(vocab_size=257).train(["a"])
    names = [*(pieces.piece(i) for i in range(1, 257)), *more]
    (directory / "vocab.json").write_text(json.dumps({name: place for place, name in enumerate(names)}))
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merge}\n")


def test_a_byte_vocabulary_may_have_special_tokens_of_its_own(tmp_path):
    write_bpe(tmp_path, ["ab", "<s>", "<pad>", "</s>", "<unk>", "<mask>"], "a b")
    roberta = ByteBPE(path=str(tmp_path)).train([])
    special = (roberta.bos_id, roberta.pad_id, roberta.eos_id, roberta.unk_id, roberta.mask_id)
    assert special == (257, 258, 259, 260, 261)
    assert roberta.encode("ab<mask>")[0] == 256
    assert 261 not in roberta.encode("ab<mask>")


@pytest.mark.parametrize("fast", [False, True])
def test_a_pair_of_roberta_has_two_end_tokens_between_as_in_transformers(fast, tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    write_bpe(tmp_path, ["ab", "<s>", "<pad>", "</s>", "<unk>", "<mask>"], "a b")
    theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    if fast:
        theirs.save_pretrained(tmp_path)
    else:
        (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    found = TokenizerJson(path=str(tmp_path)).train([])
    ((joined, second),) = join_parts(found, [["abc", "de f"]], 20)
    assert joined == theirs("abc", "de f")["input_ids"] and found.decode(joined[second:]) == "de f"
    (cut,) = join_parts(found, [["abc", "de f"]], 8)
    assert len(cut[0]) == 8
    (window,) = windows(found, "abc", "de f", 20, 2)
    assert window.tokens == joined and window.first == second


def test_ids_that_a_file_leaves_out_count(tmp_path):
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "the", "fox"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    trained = WordPiece(path=str(tmp_path / "vocab.txt")).train([])
    assert trained.vocab_size == 7
    assert trained.encode("the fox") == [5, 6]
    assert (trained.piece(4), trained.mask_id) == ("", None)
    assert trained.decode([4, 5, 6]) == "the fox"
