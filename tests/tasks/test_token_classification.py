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
from transformer_jax.tasks.token_classification import Entity, Tagger, TokenClassification, spans

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

    def tag_pieces(self, pieces):
        return self.tag([])


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
    batch = {name: jnp.asarray([row + [0] * 5 for row in columns[name]]) for name in ("tokens", "tags")}
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


def test_an_evaluation_reads_the_windows_of_the_texts_from_the_table(tagger, encoded):
    texts = ["one two three four five six", "a", "seven  eight"]
    examples = [{"text": text, "tags": " ".join("O" * len(text.split()))} for text in texts]
    examples = encoded(TASK, TOKENIZERS, examples, max_length=16)
    right = [tag == "O" for tags in tagger.tag(texts) for tag in tags]
    assert TASK.evaluate(tagger, examples)["accuracy"] == pytest.approx(100 * np.mean(right))


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


@pytest.mark.parametrize(
    ("text", "tags", "entities"),
    [
        ("Ann Lee sees Oslo", "B-PER E-PER O S-LOC", ["PER Ann Lee", "LOC Oslo"]),
        ("Ann Lee sees Oslo", "B-PER L-PER O U-LOC", ["PER Ann Lee", "LOC Oslo"]),
        ("Ann van Lee Bo", "B-PER M-PER E-PER S-PER", ["PER Ann van Lee", "PER Bo"]),
        ("Ann Lee sees Oslo", "PER PER O LOC", ["PER Ann Lee", "LOC Oslo"]),
        ("Ann Lee", "E-PER E-PER", ["PER Ann", "PER Lee"]),
        ("a big house", "B I O", [" a big"]),
    ],
)
def test_entities_of_any_set_of_tags(text, tags, entities, encoded):
    (found,) = Known([tags]).entities([text])
    assert [f"{entity.kind} {entity.text}" for entity in found] == entities
    tokenizers = {"text": TOKENIZER, "tags": Labels(many=True).train([tags])}
    examples = encoded(TASK, tokenizers, [{"text": text, "tags": tags}], max_length=32)
    assert TASK.evaluate(Known([tags]), examples)["f1"] == 100


def test_entities_and_scores_are_those_that_seqeval_counts(encoded):
    measure = pytest.importorskip("seqeval.metrics", reason="needs seqeval")
    entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    draw = np.random.default_rng(0)
    names = ["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in ("place", "a-b"))]
    found, right = ([draw.choice(names, 7).tolist() for _ in range(200)] for _ in range(2))
    for tags in found:
        assert spans(tags) == [(kind, first, last + 1) for kind, first, last in entities(tags)]
    tokenizers = {"text": TOKENIZER, "tags": Labels(many=True).train([" ".join(names)])}
    examples = [{"text": "a b c d e f g", "tags": " ".join(tags)} for tags in right]
    known = Known([" ".join(tags) for tags in found])
    scores = TASK.evaluate(known, encoded(TASK, tokenizers, examples, max_length=16))
    assert scores.pop("examples") == 200
    assert scores == pytest.approx({name: 100 * getattr(measure, f"{name}_score")(right, found) for name in scores})


def conll(tmp_path, text, **fields):
    (tmp_path / "train.conll").write_text(text, encoding="utf-8")
    found = Conll(directory=str(tmp_path), train=("train.conll",), **fields).examples("train")
    return [(example["text"], example["tags"]) for example in found]


def test_conll_files_end_sentences_at_lines_without_a_word(tmp_path):
    text = "-DOCSTART-\tO\n\nNew\tB-place\nYork\tI-place\n\t\nhi\tO\n\n\nlast\tO"
    assert conll(tmp_path, text) == [("New York", "B-place I-place"), ("hi", "O"), ("last", "O")]
    with pytest.raises(ValueError, match="train.conll has 1 columns, as in 'word', and not the word in .* 0"):
        conll(tmp_path, "word\n")
    with pytest.raises(ValueError, match="train.conll line 2 has 1 columns, not 2: 'word'"):
        conll(tmp_path, "a\tO\nword\n")
    with pytest.raises(ValueError, match="there are no test examples, only train"):
        list(Conll(directory=str(tmp_path), train=("train.conll",)).examples("test"))


def test_conll_comments_are_left_out_and_words_with_a_hash_sign_are_not(tmp_path):
    spaces = "# a note\n#begin document (x); part 000\n# O\n#tag S-x\nis O\n# U-x\n\n#new B-x\n#end document\n"
    assert conll(tmp_path, spaces.replace("#end document\n", "\n#end document\n")) == [
        ("# #tag is #", "O S-x O U-x"),
        ("#new", "B-x"),
    ]
    with pytest.raises(ValueError, match="line 4 has 3 columns, not 2"):
        conll(tmp_path, "a O\n\nb O\n# no comment\n")
    # Parts of speech: the tag of a hash sign may be its alone.
    assert conll(tmp_path, "# text = # 1\tb\n#\tSYM\n1\tNUM\n") == [("# 1", "SYM NUM")]


def test_conll_u_has_comments_ranges_and_cells_that_are_empty_or_have_spaces(tmp_path):
    text = (
        "# sent_id = 1\n# text = du 1 000\n1-2\tdu\t_\t_\n1\tde\tADP\t_\n2\tle\t\tx y\n2.1\te\t_\t_\n3\t1 000\tNUM\t_\n"
    )
    assert conll(tmp_path, text, word_column=1, tag_column=2) == [("de le 1_000", "ADP _ NUM")]


def test_predictions_do_not_depend_on_the_batch(tagger):
    texts = ["one", "two three", "four five six"]
    assert tagger.tag(texts) == [tagger.tag([text])[0] for text in texts]
    np.testing.assert_equal(tagger.tag([]), [])
