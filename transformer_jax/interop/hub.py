"""Published models by their name on the hub of Hugging Face."""

import re
from pathlib import Path

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""owner/model."""
FILES = ("*.json", "*.jinja", "*.md", "*.model", "*.safetensors", "*.spm", "*.txt", "LICENSE*", "NOTICE*")
"""What a published model is read from; never pickles or code."""


def local_directory(place: str) -> Path:
    """The directory that `place` is or, of a name on the hub, the copy of its files, which are fetched once.

    A path whose beginning is here is no name. Raises ValueError where the files cannot be had.
    """
    path = Path(place).expanduser()
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
