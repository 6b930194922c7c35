"""What published tokenizers have in common, whatever files they came in."""

import json
from pathlib import Path
from typing import Any

from transformer_jax.data.tokenizers import Tokenizer

SETTINGS = "tokenizer_config.json"


class PublishedTokenizer(Tokenizer):
    """A published tokenizer. What it lacks of start, padding and unknown token, its end token is."""

    def __init__(self, content: bytes):
        Tokenizer.__init__(self, content)
        self.published: dict[str, Any] = json.loads(content)
        """What its files held, and `special` (ids), `settings`, `vocab_size` and `between` (end tokens in a pair)."""

    def take_ids(self, own: int) -> None:
        """Sets size and special tokens of a vocabulary of `own` tokens; ValueError if the model has fewer."""
        special = self.published["special"]
        self.vocab_size = self.published["vocab_size"] or own
        if self.vocab_size < own:
            raise ValueError(f"the published tokenizer has {own:,} tokens, but the model only {self.vocab_size:,}")
        self.eos_id, self.mask_id = special["eos"], special["mask"]
        ids = [special[name] if special[name] is not None else self.eos_id for name in ("bos", "pad", "unk")]
        self.bos_id, self.pad_id, self.unk_id = ids
        self.special = {self.bos_id, self.eos_id, self.pad_id, self.mask_id}
        self.between = self.published.get("between", 1)

    def around(self) -> tuple[list[int], list[int]]:
        """The tokens before and behind a text that a model of texts for texts reads."""
        return [], [self.eos_id]

    def chat_template(self) -> tuple[str, dict[str, str]]:
        """The template of the settings, the one called default if there are several."""
        settings = self.published["settings"]
        template, names = settings.get("chat_template"), {}
        if isinstance(template, list):
            named = [each for each in template if isinstance(each, dict) and each.get("name") == "default"]
            template = named[0].get("template") if named else None
        for role, value in settings.items():
            content = content_of(value)
            if role.endswith("_token") and isinstance(content, str):
                names[role] = content
        return (template, names) if isinstance(template, str) else super().chat_template()

    def write_published(self, directory: Path) -> None:
        """Writes its files as they are published."""
        raise NotImplementedError

    def write_json(self, path: Path, content: Any) -> None:
        """Writes one of its files."""
        path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def content_of(token: Any) -> Any:
    """The text of a token, which may stand beside how it is found."""
    return token.get("content") if isinstance(token, dict) else token
