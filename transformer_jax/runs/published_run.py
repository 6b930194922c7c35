"""From a published model to the experiment that it would have come from, and to a predictor."""

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from transformer_jax.data.audio import AudioTable
from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.pictures import PictureFolders
from transformer_jax.data.published_tokenizer import PublishedTokenizer
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizer_json import TokenizerJson
from transformer_jax.data.vocabulary import Vocabulary
from transformer_jax.interop.published import Published, open_published
from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.inputs import Frames
from transformer_jax.nn.log_mel import LogMel
from transformer_jax.parallel.mesh import MeshConfig, local_mesh
from transformer_jax.runs.published_generation import with_generation
from transformer_jax.runs.sentence_files import longest_text, read_pooling
from transformer_jax.tasks.classification import Classification
from transformer_jax.tasks.image_classification import ImageClassification
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.tasks.masked_language_modelling import MaskedLanguageModelling
from transformer_jax.tasks.next_sentence import NextSentence
from transformer_jax.tasks.question_answering import QuestionAnswering
from transformer_jax.tasks.task import Task
from transformer_jax.tasks.token_classification import TokenClassification
from transformer_jax.tasks.transcription import Transcription
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.experiment import Experiment, TrainConfig
from transformer_jax.training.step import abstract_model, model_shardings

T = TypeVar("T", bound=Task)
LONGEST = 1024
"""Tokens of a text, where the positions go further."""
WINDOWS = 8
"""Windows of recordings that are transcribed at once."""


def experiment_for(published: Published, *, ignore: Collection[str] = ()) -> tuple[Experiment, dict[str, Vocabulary]]:
    """A task that has the model's head, the data and model that go with it, and the vocabularies of its features.

    The source has no files yet.
    """
    config, task = published.config, task_for(published)
    data = DataConfig(source=PictureFolders())
    vocabularies: dict[str, Vocabulary] = {}
    if config.reads_text:
        reach = config.reach() or config.max_length
        # A translation may begin with the token of its language.
        extra = task.decoding.extra_length + 1 if isinstance(task, Translation) else 0
        length = max(min(reach - extra, longest_text(published.directory) or LONGEST), 1)
        files = TokenizerJson(path=str(published.directory), vocab_size=config.vocab_size)
        tokenizer = files.train([])
        task = with_generation(with_source(task, tokenizer), published, tokenizer, length + extra, ignore)
        data = DataConfig(source=Files(features=task.features), tokenizer=files, max_length=length)
        if isinstance(task, Transcription):
            sizes = {"max_length": task.window, "tokens_per_batch": WINDOWS * task.window}
            data = dataclasses.replace(data, source=AudioTable(features=task.features), **sizes)
        vocabularies |= dict.fromkeys(task.vocabularies(data), tokenizer)
    labels = tuple(published.labels())
    kinds = task.vocabularies(data).items()
    vocabularies |= {name: dataclasses.replace(kind, names=labels) for name, kind in kinds if isinstance(kind, Labels)}
    # The only checkpoint is no step of a training.
    train = TrainConfig(best="", validation_examples=0)
    return Experiment(task=task, data=data, model=config, train=train), vocabularies


def with_source(task: T, tokenizer: PublishedTokenizer) -> T:
    """A translation with the tokens around its sources that a published tokenizer puts there; other tasks as they are.

    Raises ValueError where these are others than a translation has places for.
    """
    if not isinstance(task, Translation):
        return task
    before, behind = tokenizer.around()
    ends = behind[:1] == [tokenizer.eos_id]
    last = behind[1:] if ends else behind
    if len(before) > 1 or len(last) > 1:
        around = " ".join([*map(tokenizer.piece, before), "...", *map(tokenizer.piece, behind)])
        raise ValueError(f"its tokenizer has texts read as {around}, with more tokens than a source has here")
    start, end = ("".join(map(tokenizer.piece, tokens)) for tokens in (before, last))
    return dataclasses.replace(task, source_start=start, source_end=end, source_eos=ends)


def task_for(published: Published) -> Task:
    """The task that a model's head is for."""
    config, name = published.config, published.architecture.name
    if isinstance(config, DecoderOnlyConfig):
        return LanguageModelling()
    if isinstance(config, EncoderDecoderConfig):
        if not isinstance(config.input, Frames):
            return Translation()
        window = config.encoder_layers.max_length * math.prod(config.input.strides)
        mels = LogMel(num_mels=config.input.num_mels)
        return Transcription(log_mel=mels, window=window, longest_text=config.max_length)
    if not config.reads_text:
        return ImageClassification(image_size=config.input.image_size, channels=config.input.channels)
    if config.head == "language_model":
        return MaskedLanguageModelling()
    if config.head == "pretraining":
        return NextSentence()
    if config.head == "sequence":
        return Classification(regression=config.num_outputs == 1)
    if config.head == "tokens":
        return QuestionAnswering() if "QuestionAnswering" in name else TokenClassification()
    return read_pooling(published.directory)


def load_published(directory: Path, *, dtype: str = "float32", ignore: Collection[str] = ()) -> Any:
    """The predictor of a published model, on all devices of this process; parameters and products are in `dtype`."""
    published = open_published(directory, dtype=dtype, ignore=ignore)
    experiment, vocabularies = experiment_for(published, ignore=ignore)
    shardings = model_shardings(abstract_model(published.config), local_mesh(MeshConfig()))
    return experiment.task.predictor(published.model(shardings, dtype), vocabularies, experiment.data)
