"""Constituency parsing as translation, table 4 of "Attention Is All You Need": words in, brackets and labels out.

The paper's model has 4 layers of width 1,024 and 16,000 tokens, beam 21, alpha 0.3, outputs of at most the input's
length + 300; it reaches F1 91.3 on section 23 of the Wall Street Journal from the 40,000 sentences of sections 2 to 21
alone. Dropout, chosen on section 22, and the number of steps are not stated; here all else is as in the base model.

    transformer-jax train experiments/paper/parsing.py --data.source.directory DIRECTORY
    transformer-jax evaluate runs/parsing [--task.well-formed True]

DIRECTORY holds train.mrg, validation.mrg and test.mrg, each the sections of the Penn Treebank one behind another, which
its licence does not let us pass on. Not trained here: no time and no score of our own. A GPU or TPU is needed.

    transformer-jax train experiments/paper/parsing.py --variant small --data.source.directory DIRECTORY
    transformer-jax evaluate runs/parsing_small --split validation [--task.well-formed True]

is for a treebank of a tenth of that size: train.ptb.gz and dev.ptb of the constituency trees of GUM (Zeldes 2017,
github.com/amir-zeldes/gum), 3,707 and 438 trees. It learns from their constituents too; pre-norm, relative positions
and less dropout together learned faster. On dev, F1 51.5 after 8,201 steps, the search held to trees, 10 minutes on one
H100 beside other trainings; trees that branch to the right alone have 15.9 (docs/REPRODUCTION.md).

`--variant built_in` needs no files: sentences of a small grammar.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from transformer_jax import (
    DataConfig,
    Decoding,
    Experiment,
    OptimizerConfig,
    Parsing,
    Relative,
    SentencePiece,
    Source,
    TrainConfig,
    Treebank,
    base,
    run_experiment,
)
from transformer_jax.data.sources import split_of
from transformer_jax.data.trees import linearised


def experiment() -> Experiment:
    return Experiment(
        task=Parsing(),
        data=DataConfig(
            source=Treebank(
                directory="data/wsj", train=("train.mrg",), validation=("validation.mrg",), test=("test.mrg",)
            ),
            tokenizer=SentencePiece(vocab_size=16_000),
            shared_vocabulary=False,
            max_length=512,
            tokens_per_batch=32_768,
        ),
        model=base(num_layers=4, d_model=1024, share_embeddings=False),
        train=TrainConfig(steps=50_000, evaluate_every=5_000, save_every=1_000, keep=5, checkpoint="average:5"),
    )


def small() -> Experiment:
    of_paper = experiment()
    return replace(
        of_paper,
        task=Parsing(decoding=Decoding(beam_size=5, length_penalty=0.3, extra_length=300)),
        data=replace(
            of_paper.data,
            source=Treebank(directory="data/gum", train=("train.ptb.gz",), validation=("dev.ptb",), constituents=True),
            tokenizer=SentencePiece(vocab_size=4_000),
            subword_sampling=0.1,
            max_length=320,
            tokens_per_batch=4_096,
            num_buckets=6,
        ),
        model=base(
            num_layers=3,
            d_model=128,
            num_heads=4,
            d_ff=512,
            share_embeddings=False,
            dropout=0.2,
            norm_placement="pre",
            final_norm=True,
            positions=Relative(),
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=400),
        train=TrainConfig(
            steps=8_000,
            evaluate_every=1_000,
            validation_examples=438,
            predict_every=4,
            save_every=100,
            keep=10,
            checkpoint="average:10",
            random_bits="rbg",
        ),
    )


GRAMMAR = {
    "S": ("(S {NP} {VP} (. .))", "(S (ADVP (RB {adverb})) (, ,) {NP} {VP} (. .))"),
    "NP": ("(NP (DT the) (NN {noun}))", "(NP (DT a) (JJ {adjective}) (NN {noun}))", "(NP {NP} (PP (IN of) {NP}))"),
    "VP": ("(VP (VBD saw) {NP})", "(VP (VBD saw) {NP} (PP (IN with) {NP}))", "(VP (VBD said) (SBAR (IN that) {C}))"),
    "C": ("(S {NP} {VP})",),
    "noun": ("dog", "cat", "house", "king", "tower", "river", "queen", "bird"),
    "adjective": ("old", "small", "red", "quiet", "strange"),
    "adverb": ("yesterday", "often", "suddenly"),
}
"""Of prepositions, `of` belongs to the noun phrase in front and `with` to the verb."""
LONGEST = 150
"""Characters of a sentence, at most."""


@dataclass(frozen=True)
class MadeUp(Source):
    """Sentences of `GRAMMAR` with their trees."""

    train_examples: int = 4_000
    """Sentences to learn from; validation and test have a tenth."""

    def examples(self, split: str) -> Iterator[Any]:
        left, seen = self.train_examples // (1 if split == "train" else 10), set()
        for seed in count():
            one = linearised(written("S", random.Random(seed)))
            text = one["source"]
            if len(text) < LONGEST and text not in seen and split_of(text, 0.1) == split:
                seen.add(text)
                yield one
                if len(seen) == left:
                    return


def written(symbol: str, choices: random.Random) -> str:
    """A random tree in brackets."""
    return re.sub(r"\{(\w+)\}", lambda match: written(match[1], choices), choices.choice(GRAMMAR[symbol]))


def built_in() -> Experiment:
    of_files = small()
    data = replace(of_files.data, source=MadeUp(), tokenizer=SentencePiece(vocab_size=100), subword_sampling=0.0)
    train = replace(of_files.train, steps=500, evaluate_every=250, predict_every=1, save_every=25)
    return replace(of_files, data=data, train=train)


if __name__ == "__main__":
    run_experiment(__file__)
