import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.conll import Conll
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.encoder_only import bert
from transformer_jax.tasks.token_classification import Entity, Tagger, TokenClassification

MODEL = bert(d_model=16, num_heads=2, d_ff=32, num_layers=1, max_length=16, dropout=0.0, attention_dropout=0.0)
DATA = DataConfig(source=Files(), tokenizer=Bytes(), max_length=16)
TASK = TokenClassification()
TOKENIZER = Bytes().train([])
TAGS = Labels(many=True).train(["B-place I-place O"])
TOKENIZERS = {"text": TOKENIZER, "tags": TAGS}


@pytest.fixture(scope="module")
def tagger():
    model = TASK.resolve(MODEL, DATA, {"text": 260, "tags": 3}).build(0)
    return TASK.predictor(model, TOKENIZERS, DATA)


class Known(Tagger):
    """Tags that are given, to look at what follows from them."""

    def __init__(self, tags):
        self.known = tags

    def tag(self, texts):
        return [tags.split() for tags in self.known]


def test_the_first_token_of_every_word_has_its_tag():
    columns = TASK.encode(TOKENIZERS, [{"text": "in  New York", "tags": "O B-place I-place"}], max_length=16)
    ids = TOKENIZER.encode("in New York")
    assert columns["tokens"] == [[TOKENIZER.bos_id, *ids, TOKENIZER.eos_id]]
    # A space belongs to the word behind it, as in vocabularies of words with their spaces.
    assert columns["tags"] == [[0, 3, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0]]
    cut = TASK.encode(TOKENIZERS, [{"text": "a bcdefgh", "tags": "O O"}], max_length=6)
    assert len(cut["tokens"][0]) == len(cut["tags"][0]) == 6 and cut["tokens"][0][-1] == TOKENIZER.eos_id
    with pytest.raises(ValueError, match="2 words and 1 tags"):
        TASK.encode(TOKENIZERS, [{"text": "two words", "tags": "O"}], max_length=16)


def test_the_loss_counts_the_first_tokens_alone(tagger):
    columns = TASK.encode(TOKENIZERS, [{"text": "ab c", "tags": "B-place O"}], max_length=16)
    batch = {name: jnp.asarray([row + [0] * 5 for row in rows]) for name, rows in columns.items()}
    batch["tokens_length"] = jnp.asarray([6])
    sums = jax.jit(TASK.loss)(tagger.model, batch, None)
    logits = jax.nn.log_softmax(tagger.model(jnp.asarray(columns["tokens"])))[0]
    assert float(sums["loss"][1]) == 2
    assert float(sums["loss"][0]) == pytest.approx(-float(logits[1, 0] + logits[3, 2]), rel=1e-4)


def test_tags_of_long_texts_are_those_of_their_pieces(tagger):
    text = "one two three four five six"
    assert [len(tags) for tags in tagger.tag([text, "", "a"])] == [6, 0, 1]
    first = tagger.tag(["one two three"])[0]
    assert tagger.tag([text])[0][:3] == first, "so much fits in 14 tokens"
    assert tagger.predict(["one two three"]) == [" ".join(first)]
    with pytest.raises(ValueError, match="line 2 has a word of more than 14 tokens"):
        tagger.tag(["a", "x" * 15])


def test_entities_are_parts_of_the_original_text():
    text = "From New  York to Rome, Paris Lyon"
    (found,) = Known(["O B-place I-place O I-place B-place B-place"]).entities([text])
    assert found == [
        Entity("place", "New  York", 5, 14),
        Entity("place", "Rome,", 18, 23),
        Entity("place", "Paris", 24, 29),
        Entity("place", "Lyon", 30, 34),
    ]
    assert all(text[entity.start : entity.end] == entity.text for entity in found)


def test_scores_are_those_of_whole_entities():
    pytest.importorskip("seqeval", reason="needs seqeval")
    examples = [{"text": "a b c", "tags": "B-place I-place O"}, {"text": "d e", "tags": "B-place O"}]
    found = TASK.evaluate(Known(["B-place O O", "B-place O"]), examples)
    assert found["examples"] == 2 and found["accuracy"] == pytest.approx(80)
    assert found["precision"] == found["recall"] == found["f1"] == pytest.approx(50)


def test_conll_files_end_sentences_at_lines_without_a_word(tmp_path):
    (tmp_path / "train.conll").write_text(
        "-DOCSTART-\tO\n\nNew\tB-place\nYork\tI-place\n\t\nhi\tO\n\n\nlast\tO", encoding="utf-8"
    )
    source = Conll(directory=str(tmp_path), train=("train.conll",))
    assert list(source.examples("train")) == [
        {"text": "New York", "tags": "B-place I-place"},
        {"text": "hi", "tags": "O"},
        {"text": "last", "tags": "O"},
    ]
    (tmp_path / "train.conll").write_text("word\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 needs 2 columns with the tag"):
        list(source.examples("train"))
    with pytest.raises(ValueError, match="there are no test examples, only train"):
        list(source.examples("test"))


def test_predictions_do_not_depend_on_the_batch(tagger):
    texts = ["one", "two three", "four five six"]
    assert tagger.tag(texts) == [tagger.tag([text])[0] for text in texts]
    np.testing.assert_equal(tagger.tag([]), [])
