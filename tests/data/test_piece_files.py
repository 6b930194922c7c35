"""Published SentencePiece files beside transformers: the same ids, and the same texts back."""

import io
import json
import random
from typing import Any

import pytest
import sentencepiece

from transformer_jax.data.tokenizer_json import TokenizerJson

transformers = pytest.importorskip("transformers", reason="compares with transformers")

WORDS = "a the small dog cats run ran walks over under roof Hauses grüne Élan naïve ½ 42 東京 हिन्दी word-by-word"
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def sentences(seed, count=300):
    generator = random.Random(seed)
    words = [*WORDS.split(), *("".join(generator.choices("bdfgklmnoaeiuü", k=5)) for _ in range(40))]
    return [" ".join(generator.choices(words, k=generator.randint(1, 9))) for _ in range(count)]


def trained(seed, **options):
    """A SentencePiece model's bytes, with fairseq's order of special tokens unless told otherwise."""
    model, kinds = io.BytesIO(), {"vocab_size": 100, "unk_id": 0, "bos_id": 1, "eos_id": 2, **options}
    settings: dict[str, Any] = {"sentence_iterator": iter(sentences(seed)), "model_writer": model, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(**(settings | kinds))
    return model.getvalue()


def pieces(model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(number) for number in range(processor.vocab_size())]


def marian(directory):
    sides = [trained(seed) for seed in (1, 2)]
    for name, side in zip(("source.spm", "target.spm"), sides, strict=True):
        (directory / name).write_bytes(side)
    table = ["</s>", "<unk>", *dict.fromkeys(piece for side in sides for piece in pieces(side)[3:]), ">>fra<<", "<pad>"]
    (directory / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(table)}))
    settings = {"source_lang": "en", "target_lang": "de", **NAMES}
    write(directory, settings, {"model_type": "marian", "decoder_start_token_id": len(table) - 1})
    return transformers.MarianTokenizer.from_pretrained(directory)


def m2m_100(directory):
    model = trained(1)
    (directory / "sentencepiece.bpe.model").write_bytes(model)
    table = ["<s>", "<pad>", "</s>", "<unk>", *pieces(model)[3:]]
    (directory / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(table)}))
    known = transformers.models.m2m_100.tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]
    settings = {**NAMES, "additional_special_tokens": [f"__{code}__" for code in known]}
    write(directory, settings, {"model_type": "m2m_100", "decoder_start_token_id": 2})
    return transformers.M2M100Tokenizer.from_pretrained(directory, src_lang="en", tgt_lang="fr")


def llama(directory):
    (directory / "tokenizer.model").write_bytes(trained(3, model_type="bpe", byte_fallback=True, vocab_size=380))
    write(directory, {**NAMES, "tokenizer_class": "LlamaTokenizer"}, {"model_type": "llama"})


def added(directory):
    llama(directory)
    (directory / "added_tokens.json").write_text('{"dog": 380}')
    decoder = {"381": {"content": "small", "special": False}}
    write(directory, NAMES | {"added_tokens_decoder": decoder}, {"model_type": "llama"})


def t5(directory):
    (directory / "spiece.model").write_bytes(trained(4, pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    write(directory, NAMES, {"model_type": "t5", "decoder_start_token_id": 0})


def write(directory, settings, config):
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "config.json").write_text(json.dumps(config))


def ours(directory, **fields) -> Any:
    return TokenizerJson(str(directory), **fields).train([])


def test_marians_pair_gives_the_ids_and_texts_of_transformers(tmp_path):
    theirs = marian(tmp_path)
    found = ours(tmp_path)
    lines = [*sentences(7, 200), ">>fra<< a small dog", "an unknown ☃ sign", " two  spaces "]
    assert [[*ids, found.eos_id] for ids in found.encode_batch(lines)] == theirs(lines)["input_ids"]
    targets = theirs(text_target=lines)["input_ids"]
    assert [[*ids, found.eos_id] for ids in found.for_targets.encode_batch(lines)] == targets
    assert [*map(found.decode, targets[:200])] == theirs.batch_decode(targets[:200], skip_special_tokens=True)
    assert (found.pad_id, found.eos_id, found.unk_id, found.bos_id) == (theirs.pad_token_id, 0, 1, theirs.pad_token_id)


def test_m2m_100_has_its_languages_behind_the_table(tmp_path):
    theirs = m2m_100(tmp_path)
    found = ours(tmp_path)
    lines = sentences(8, 200)
    start = found.token_id("__en__")
    assert [[start, *ids, found.eos_id] for ids in found.encode_batch(lines)] == theirs(lines)["input_ids"]
    assert found.decode(found.encode("__de__ a small dog")) == "a small dog"
    assert found.token_id("__fr__") == theirs.get_lang_id("fr")


def test_pieces_of_fairseq_are_one_further_and_languages_come_last(tmp_path):
    model = trained(5)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model)
    write(tmp_path, {"additional_special_tokens": ["de_DE", "en_XX"]}, {"model_type": "mbart"})
    found, names = ours(tmp_path), pieces(model)
    assert [found.piece(i) for i in range(5)] == ["<s>", "<pad>", "</s>", "<unk>", names[3]]
    assert [found.token_id(name) for name in ("de_DE", "en_XX", "<mask>")] == [len(names) + 1 + i for i in range(3)]
    assert found.mask_id == found.vocab_size - 1
    assert found.encode("en_XX a dog") == [found.token_id("en_XX"), *found.encode("a dog")]
    codes = {"additional_special_tokens": ["de_DE", "en_XX"], "src_lang": "en_XX"}
    write(tmp_path, codes, {"model_type": "m2m_100"})
    assert ours(tmp_path).around() == ([found.token_id("en_XX")], [found.eos_id])
    write(tmp_path, codes | {"tokenizer_class": "MBartTokenizer"}, {"model_type": "mbart"})
    assert ours(tmp_path).around() == ([], [found.eos_id, found.token_id("en_XX")])


def test_t5_has_sentinels_counted_from_the_end(tmp_path):
    t5(tmp_path)
    found = ours(tmp_path, vocab_size=256)
    assert found.token_id("<extra_id_0>") == 199 and found.token_id("<extra_id_99>") == 100 and found.vocab_size == 256
    text = "a small <extra_id_0> ran <extra_id_1>"
    assert [*map(found.piece, found.encode(text))].count("<extra_id_0>") == 1 and found.decode(
        found.encode(text)
    ) == text
    assert found.bos_id == found.pad_id == 0 and found.eos_id == 1


@pytest.mark.parametrize("write_files", [marian, m2m_100, llama, added, t5])
def test_what_is_saved_and_what_is_published_again_is_the_same(write_files, tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "again").mkdir()
    write_files(tmp_path / "published")
    found = ours(tmp_path / "published")
    found.save(tmp_path, "shared")
    restored = TokenizerJson().load(tmp_path, "shared")
    found.write_published(tmp_path / "again")
    (tmp_path / "again" / "config.json").write_bytes((tmp_path / "published" / "config.json").read_bytes())
    again = ours(tmp_path / "again")
    for text in (*sentences(9, 50), "☃ naïve"):
        ids, offsets = found.encode_with_offsets(text)
        assert ids == found.encode(text) == restored.encode(text) == again.encode(text)
        assert found.decode(ids) == restored.decode(ids) and len(offsets) == len(ids)
        assert all(0 <= start <= end <= len(text) for start, end in offsets)
    assert restored.fingerprint == found.fingerprint


def test_special_tokens_are_found_in_texts_as_a_chat_template_writes_them(tmp_path):
    llama(tmp_path)
    write(
        tmp_path,
        {
            **NAMES,
            "tokenizer_class": "LlamaTokenizer",
            "added_tokens_decoder": {
                "390": {"content": "<|im_start|>"},
                "391": {"content": "<tool>", "special": False},
            },
        },
        {"model_type": "llama"},
    )
    found = ours(tmp_path)
    ids = found.encode("<s><|im_start|>a dog</s>")
    assert ids[:2] == [found.bos_id, 390] and ids[-1] == found.eos_id and found.unk_id not in ids
    assert found.decode(ids).strip() == "a dog"
    assert found.decode(found.encode("a<tool>dog")) == "a <tool> dog"


@pytest.mark.parametrize(
    "settings",
    [
        {"extra_ids": "100"},
        {"extra_ids": 10**12},
        {"extra_ids": -5},
        {"additional_special_tokens": 5},
        {"additional_special_tokens": [{}]},
        {"additional_special_tokens": "ab"},
        {"additional_special_tokens": [""]},
        {"added_tokens_decoder": {"-1": "x"}},
        {"added_tokens_decoder": {str(10**12): "x"}},
        {"eos_token_id": 10**6, "eos_token": None},
    ],
)
def test_settings_that_are_none_are_refused(settings, tmp_path):
    t5(tmp_path)
    write(
        tmp_path,
        {**NAMES, **settings},
        {"model_type": "t5", "decoder_start_token_id": -1 if "eos" in str(settings) else 0},
    )
    with pytest.raises(ValueError):
        ours(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("source.spm", b"no model"),
        ("vocab.json", b'{"a": -1}'),
        ("vocab.json", b"[1]"),
        ("vocab.json", b'{"a": 1e9}'),
        ("vocab.json", b'{"a": 1, "b": 1}'),
    ],
)
def test_damaged_files_are_named(name, content, tmp_path):
    marian(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        ours(tmp_path)
