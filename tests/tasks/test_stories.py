"""A published model, stories260K (github.com/karpathy/llama2.c), writes what its author published."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.tokenizers import ByteTokenizer
from transformer_jax.decoding.sampling import Sampling
from transformer_jax.models.decoder_only import llama
from transformer_jax.nn.parameters import named_parameters, replace_parameters
from transformer_jax.tasks.generator import Generation, TextGenerator


class Pieces(ByteTokenizer):
    """The vocabulary of the model: decodes only."""

    pad_id, unk_id, bos_id, eos_id = 0, 0, 1, 1

    def __init__(self, data):
        super().__init__()
        self.pieces, place = [], 4
        while place < len(data):
            size = int.from_bytes(data[place + 4 : place + 8], "little")
            self.pieces.append(data[place + 8 : place + 8 + size].decode())
            place += 8 + size

    def encode_batch(self, texts):
        assert set(texts) == {""}
        return [[] for _ in texts]

    def decode(self, ids):
        text = "".join(self.pieces[i] for i in ids if i != self.eos_id)
        return text.removeprefix(" ").replace("<0x0A>", "\n")


@pytest.fixture(scope="module")
def directory(shared_data):
    return shared_data / "checkpoints" / "stories260K"


@pytest.fixture(scope="module")
def model(directory):
    data = (directory / "stories260K.bin").read_bytes()
    d, ff, layers, heads, kv_heads, vocab, length = np.frombuffer(data, "<i4", 7).tolist()
    numbers, head = iter([np.frombuffer(data, "<f4", offset=28)]), d // heads
    values, place = next(numbers), 0

    def take(*shape):
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return values[place - size : place].reshape(shape)

    def rotated(matrix):
        """[layers, heads * head, d] whose pairs are neighbours, to [layers, d, heads, head] whose pairs are halves."""
        pairs = matrix.reshape(layers, -1, head // 2, 2, d)
        return np.moveaxis(pairs, 3, 2).reshape(layers, -1, head, d).transpose(0, 3, 1, 2)

    def turned(matrix):
        return matrix.swapaxes(1, 2)

    config = llama(
        d_model=d,
        num_heads=heads,
        num_kv_heads=kv_heads,
        d_ff=ff,
        num_layers=layers,
        vocab_size=vocab,
        tie_output=True,
        max_length=length,
    )
    table, layer = take(vocab, d), "decoder/layers"
    parameters = {
        "embedding/table": table,
        f"{layer}/self_attention_norm/scale": take(layers, d),
        f"{layer}/self_attention/query/kernel": rotated(take(layers, d, d)),
        f"{layer}/self_attention/key/kernel": rotated(take(layers, kv_heads * head, d)),
        f"{layer}/self_attention/value/kernel": turned(take(layers, kv_heads * head, d)).reshape(layers, d, -1, head),
        f"{layer}/self_attention/output/kernel": turned(take(layers, d, d)).reshape(layers, heads, head, d),
        f"{layer}/feed_forward_norm/scale": take(layers, d),
        f"{layer}/feed_forward/gate/kernel": turned(take(layers, ff, d)),
        f"{layer}/feed_forward/output/kernel": turned(take(layers, d, ff)),
        f"{layer}/feed_forward/input/kernel": turned(take(layers, ff, d)),
        "decoder/final_norm/scale": take(d),
    }
    model = config.build(0)
    assert config.num_parameters() == 260_032
    assert {name: value.shape for name, value in parameters.items()} == {
        name: value.shape for name, value in named_parameters(model).items()
    }
    return replace_parameters(model, jax.tree.map(jnp.asarray, parameters))


def test_logits_are_the_recorded_ones(model, directory):
    reference = json.loads((directory / "reference.json").read_text())
    logits = np.asarray(model(jnp.asarray([reference["ids"][:200]])))[0]
    for position, expected in reference["logits"].items():
        np.testing.assert_allclose(logits[int(position)], expected, atol=1e-4)


@pytest.mark.parametrize(("name", "steps"), [("expected.txt", 200), ("expected_long.txt", 256)])
def test_the_greedy_story_is_the_published_one(model, directory, name, steps):
    tokenizer = Pieces((directory / "tok512.bin").read_bytes())
    generation = Generation(max_new_tokens=steps, sampling=Sampling(temperature=0.0))
    generator = TextGenerator(model, tokenizer, generation, max_length=512)
    (story,) = generator.generate([""])
    assert story == (directory / name).read_text()
