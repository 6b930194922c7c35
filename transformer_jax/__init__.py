"""The Transformer of "Attention Is All You Need" as a JAX/Flax research codebase.

    import transformer_jax
    translator = transformer_jax.load("runs/quickstart")
    translator.translate(["jeudi 5 mars 2026"])

What an experiment file needs is imported from here; modules live in `transformer_jax.nn` and `transformer_jax.models`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformer_jax.cli.main import run_experiment as run_experiment
    from transformer_jax.data.config import DataConfig as DataConfig
    from transformer_jax.data.conll import Conll as Conll
    from transformer_jax.data.dates import Dates as Dates
    from transformer_jax.data.labels import Labels as Labels
    from transformer_jax.data.python_docs import PythonDocs as PythonDocs
    from transformer_jax.data.sources import Files as Files
    from transformer_jax.data.sources import Source as Source
    from transformer_jax.data.sources import Tfds as Tfds
    from transformer_jax.data.squad import Squad as Squad
    from transformer_jax.data.subwords import ByteBPE as ByteBPE
    from transformer_jax.data.subwords import WordPiece as WordPiece
    from transformer_jax.data.text import Text as Text
    from transformer_jax.data.tokenizers import Bytes as Bytes
    from transformer_jax.data.tokenizers import SentencePiece as SentencePiece
    from transformer_jax.decoding.sampling import Sampling as Sampling
    from transformer_jax.models.decoder_only import DecoderOnly as DecoderOnly
    from transformer_jax.models.decoder_only import DecoderOnlyConfig as DecoderOnlyConfig
    from transformer_jax.models.decoder_only import gpt2 as gpt2
    from transformer_jax.models.decoder_only import llama as llama
    from transformer_jax.models.encoder_decoder import EncoderDecoder as EncoderDecoder
    from transformer_jax.models.encoder_decoder import EncoderDecoderConfig as EncoderDecoderConfig
    from transformer_jax.models.encoder_decoder import base as base
    from transformer_jax.models.encoder_decoder import big as big
    from transformer_jax.models.encoder_only import EncoderOnly as EncoderOnly
    from transformer_jax.models.encoder_only import EncoderOnlyConfig as EncoderOnlyConfig
    from transformer_jax.models.encoder_only import bert as bert
    from transformer_jax.models.encoder_only import modern_bert as modern_bert
    from transformer_jax.parallel.mesh import MeshConfig as MeshConfig
    from transformer_jax.runs.run import load as load
    from transformer_jax.tasks.classification import Classification as Classification
    from transformer_jax.tasks.classification import PairClassification as PairClassification
    from transformer_jax.tasks.generator import Generation as Generation
    from transformer_jax.tasks.language_modelling import LanguageModelling as LanguageModelling
    from transformer_jax.tasks.masked_language_modelling import (
        MaskedLanguageModelling as MaskedLanguageModelling,
    )
    from transformer_jax.tasks.next_sentence import NextSentence as NextSentence
    from transformer_jax.tasks.question_answering import QuestionAnswering as QuestionAnswering
    from transformer_jax.tasks.task import Task as Task
    from transformer_jax.tasks.token_classification import TokenClassification as TokenClassification
    from transformer_jax.tasks.translation import Decoding as Decoding
    from transformer_jax.tasks.translation import Translation as Translation
    from transformer_jax.training.experiment import Experiment as Experiment
    from transformer_jax.training.experiment import TrainConfig as TrainConfig
    from transformer_jax.training.lora import LoraConfig as LoraConfig
    from transformer_jax.training.optimizer import OptimizerConfig as OptimizerConfig

__version__ = "0.1.0"

_HOMES = {
    "ByteBPE": "data.subwords",
    "Bytes": "data.tokenizers",
    "Classification": "tasks.classification",
    "Conll": "data.conll",
    "DataConfig": "data.config",
    "Dates": "data.dates",
    "DecoderOnly": "models.decoder_only",
    "DecoderOnlyConfig": "models.decoder_only",
    "Decoding": "tasks.translation",
    "EncoderDecoder": "models.encoder_decoder",
    "EncoderDecoderConfig": "models.encoder_decoder",
    "EncoderOnly": "models.encoder_only",
    "EncoderOnlyConfig": "models.encoder_only",
    "Experiment": "training.experiment",
    "Files": "data.sources",
    "Generation": "tasks.generator",
    "Labels": "data.labels",
    "LanguageModelling": "tasks.language_modelling",
    "LoraConfig": "training.lora",
    "MaskedLanguageModelling": "tasks.masked_language_modelling",
    "MeshConfig": "parallel.mesh",
    "NextSentence": "tasks.next_sentence",
    "OptimizerConfig": "training.optimizer",
    "PairClassification": "tasks.classification",
    "PythonDocs": "data.python_docs",
    "QuestionAnswering": "tasks.question_answering",
    "Sampling": "decoding.sampling",
    "SentencePiece": "data.tokenizers",
    "Source": "data.sources",
    "Squad": "data.squad",
    "Task": "tasks.task",
    "Text": "data.text",
    "Tfds": "data.sources",
    "TokenClassification": "tasks.token_classification",
    "TrainConfig": "training.experiment",
    "Translation": "tasks.translation",
    "WordPiece": "data.subwords",
    "base": "models.encoder_decoder",
    "bert": "models.encoder_only",
    "big": "models.encoder_decoder",
    "gpt2": "models.decoder_only",
    "llama": "models.decoder_only",
    "load": "runs.run",
    "modern_bert": "models.encoder_only",
    "run_experiment": "cli.main",
}


_ROOMS = ("analysis", "cli", "data", "decoding", "models", "nn", "parallel", "runs", "tasks", "training")


def __getattr__(name: str) -> Any:
    """Imports a public name where it is first used, so that `import transformer_jax` stays quick."""
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, *_ROOMS]
