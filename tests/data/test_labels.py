import pytest

from transformer_jax.data.labels import Labels
from transformer_jax.data.tokenizers import Tokenizer

TEXTS = ["card_arrival", "lost_or_stolen_card", "atm_support", "card_arrival", "Refund_not_showing_up"]


def test_labels_are_those_of_the_texts_sorted():
    labels = Labels().train(iter(TEXTS))
    assert labels.names == ("Refund_not_showing_up", "atm_support", "card_arrival", "lost_or_stolen_card")
    assert labels.vocab_size == 4
    assert labels.encode_batch(TEXTS) == [[2], [3], [1], [2], [0]]
    assert [labels.decode(labels.encode(text)) for text in TEXTS] == TEXTS
    assert labels.encode_with_offsets("atm_support") == ([1], [(0, 11)])


def test_several_labels_in_a_text_know_where_they_stand_and_white_space_at_the_ends_is_no_label():
    labels = Labels(many=True).train(["O B-place", "O"])
    assert labels.encode_with_offsets("O  B-place ") == ([1, 0], [(0, 1), (3, 10)])
    assert Labels().train(["yes", " yes", "no "]).encode_batch(["yes ", "no"]) == [[1], [0]]


def test_labels_are_a_tokenizer_without_special_tokens():
    labels = Labels().train(TEXTS)
    assert isinstance(labels, Tokenizer)
    assert (labels.pad_id, labels.unk_id, labels.bos_id, labels.eos_id, labels.mask_id) == (-1, -1, -1, -1, None)


def test_an_unknown_label_is_named_beside_the_nearest_one():
    labels = Labels().train(TEXTS)
    expected = "^there is no label 'card_arival' among the 4; did you mean card_arrival\\?$"
    with pytest.raises(ValueError, match=expected):
        labels.encode("card_arival")
    with pytest.raises(ValueError, match="^there is no label 'zzz' among the 4$"):
        labels.encode_batch(["atm_support", "zzz"])


def test_ids_outside_of_the_labels_are_refused():
    labels = Labels().train(TEXTS)
    for wrong in (-1, 4):
        for call in (labels.piece, lambda token_id: labels.decode([token_id])):
            with pytest.raises(ValueError, match=f"token ids are 0 to 3, not {wrong}"):
                call(wrong)
    with pytest.raises(ValueError, match="a label is one id, not 2"):
        labels.decode([0, 1])


def test_no_labels_are_an_error():
    with pytest.raises(ValueError, match="there are no labels to learn; check data.source"):
        Labels().train([])


def test_what_was_saved_is_loaded(tmp_path):
    labels = Labels().train([*TEXTS, "größe", "two words"])
    labels.save(tmp_path, "label")
    loaded = Labels().load(tmp_path, "label")
    assert (loaded.names, loaded.fingerprint) == (labels.names, labels.fingerprint)
    assert labels.fingerprint != Labels().train(TEXTS).fingerprint
    with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path}/target.json, the labels of the run"):
        Labels().load(tmp_path, "target")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"labels": 3}'])
def test_a_file_that_is_no_labels_is_named(tmp_path, content):
    (tmp_path / "label.json").write_text(content)
    with pytest.raises(ValueError, match="label.json, the labels of the run, is not what was saved"):
        Labels().load(tmp_path, "label")
