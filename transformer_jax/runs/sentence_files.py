"""How vectors of texts are made, as the package sentence-transformers writes it beside a model."""

import json
from pathlib import Path
from typing import Any

from transformer_jax.data.lines import own, parsed, read_json
from transformer_jax.tasks.text_vectors import TextVectors

MODULES = "modules.json"
POOLING = "1_Pooling"
SETTINGS = "sentence_bert_config.json"
TYPES = ("Transformer", "Pooling", "Normalize")
MODES = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token"}


def read_pooling(directory: Path) -> TextVectors:
    """The task that a model's files describe; ValueError for steps or a pooling that it does not have."""
    modules, pooling = directory / MODULES, directory / POOLING / "config.json"
    pooled = read_json(pooling) if pooling.is_file() else {}
    kinds = parsed(own(modules).read_bytes(), str(modules)) if modules.is_file() else []
    if not isinstance(kinds, list) or not all(isinstance(kind, dict) for kind in kinds):
        raise ValueError(f"{modules} is damaged: it is no list of JSON objects")
    modes = {name for name, value in pooled.items() if name.startswith("pooling_mode_") and value is True}
    if other := modes - {*MODES.values()}:
        raise ValueError(f"{pooling} has {', '.join(sorted(other))}; vectors of texts are the mean or the first here")
    types = [str(kind.get("type", "")).rpartition(".")[2] for kind in kinds]
    if others := [kind for kind in types if kind not in TYPES]:
        raise ValueError(f"{modules} has {others[0]}; here vectors of texts are pooled and normalised, and no more")
    if len(modes) > 1:
        raise ValueError(f"{pooling} has {' and '.join(sorted(modes))}; vectors of texts are one of both here")
    return TextVectors(pooling="first" if MODES["first"] in modes else "mean", normalise=TYPES[2] in types)


def longest_text(directory: Path) -> int | None:
    """The longest text, in tokens, that a model for vectors of texts is meant for, if its files say so."""
    path = directory / SETTINGS
    length = read_json(path).get("max_seq_length") if path.is_file() else None
    return length if isinstance(length, int) and length > 0 else None


def write_pooling(directory: Path, task: TextVectors, width: int, max_length: int) -> None:
    """Writes what `read_pooling` and `longest_text` read, so that sentence-transformers makes the same vectors."""
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(zip(("", POOLING, "2_Normalize"), TYPES, strict=True))
    ]
    pooling = {"word_embedding_dimension": width} | {name: kind == task.pooling for kind, name in MODES.items()}
    settings = {"max_seq_length": max_length, "do_lower_case": False}
    (directory / POOLING).mkdir()
    modules = modules[: 2 + task.normalise]
    files: dict[str, Any] = {MODULES: modules, f"{POOLING}/config.json": pooling, SETTINGS: settings}
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
