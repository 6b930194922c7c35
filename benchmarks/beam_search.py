"""Beam search over random sentences with a model of random parameters: seconds for a batch.

    python benchmarks/beam_search.py [--sentences 16 --length 32 --extra 30 --beam 4 --width 256 --layers 6]

A random model seldom ends a text, so all positions up to the limit are searched: the time is the longest that there is.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import Bytes, Decoding, base
from transformer_jax.tasks.translation import Translator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (
        ("sentences", 16),
        ("length", 32),
        ("extra", 30),
        ("beam", 4),
        ("width", 256),
        ("layers", 6),
        ("vocabulary", 4_000),
        ("rounds", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    model = base(
        d_model=options.width,
        num_heads=max(options.width // 64, 1),
        d_ff=4 * options.width,
        num_layers=options.layers,
        vocab_size=options.vocabulary,
        source_vocab_size=options.vocabulary,
    ).build(0)
    tokenizer = Bytes().train([])  # stands for special tokens alone: the tokens of the batch are random numbers
    decoding = Decoding(beam_size=options.beam, extra_length=options.extra)
    translator = Translator(model, tokenizer, tokenizer, decoding)
    tokens = np.random.default_rng(0).integers(4, options.vocabulary, (options.sentences, options.length))
    source, lengths = jnp.asarray(tokens, jnp.int32), jnp.full(options.sentences, options.length)
    seconds = []
    for _ in range(options.rounds + 1):  # the first compiles
        began = time.perf_counter()
        found = jax.block_until_ready(translator.search_tokens(source, lengths))
        seconds.append(time.perf_counter() - began)
    positions = int(found.lengths.max())
    print(f"{positions} positions: median {statistics.median(seconds[1:]):.3f} s, best {min(seconds[1:]):.3f} s")


if __name__ == "__main__":
    main()
