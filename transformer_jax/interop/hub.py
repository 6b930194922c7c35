"""Where published models are: a directory, a name on the hub of Hugging Face, or a GGUF file."""

import functools
import re
import tempfile
from pathlib import Path

from transformer_jax.interop.gguf_files import write_published_gguf

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""owner/model."""
FILES = ("*.json", "*.jinja", "*.md", "*.model", "*.safetensors", "*.spm", "*.txt", "LICENSE*", "NOTICE*")
"""What a published model is read from; never pickles or code."""
CONVERTED: list[tempfile.TemporaryDirectory[str]] = []
"""The directories of GGUF files, removed when the process ends."""


def local_directory(place: str) -> Path:
    """The directory that `place` is or, of a name on the hub, the copy of its files, which are fetched once.

    A GGUF file becomes a directory that lasts as long as the process. A path whose first part exists here is no name.
    Raises ValueError where the files cannot be had.
    """
    path = Path(place).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _converted(path.resolve())
    if path.exists() or Path(path.parts[0] if path.parts else place).exists() or not NAME.fullmatch(place):
        return path
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"{place} is no directory here; the extra huggingface fetches models by such a name from the hub"
        ) from None
    try:
        return Path(snapshot_download(place, allow_patterns=[*FILES]))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{place} is no directory here, and not to be had from the hub: {reason}") from error


@functools.cache
def _converted(file: Path) -> Path:
    directory = tempfile.TemporaryDirectory(prefix="gguf-")
    write_published_gguf(file, Path(directory.name))
    CONVERTED.append(directory)
    return Path(directory.name)
