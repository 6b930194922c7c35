"""Chat templates of published tokenizers: from what was said, by whom, to the text that the model continues.

A template is a program of whoever published it. It runs in Jinja's sandbox, in a process of its own without more than
a few seconds and some memory.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformer_jax.data.limited import Limits, run_limited

Message = Mapping[str, str]
"""`role` (system, user or assistant) and `content`."""
PROGRAM = Path(__file__).with_name("chat_program.py")
"""What runs in that process."""
LIMITS = Limits(seconds=5, memory=2**29)
LONGEST = 2**22
"""Characters of a text that it may write."""
AT_ONCE = 64
"""Conversations that one process renders."""


def render(template: str, names: Mapping[str, str], conversations: Sequence[Sequence[Message]]) -> list[str]:
    """The text of every conversation, up to where the assistant answers; `names` are those of special tokens.

    Raises ValueError for a template that cannot be rendered, or not within a few seconds.
    """
    for messages in conversations:
        if isinstance(messages, Mapping) or not all(isinstance(message, Mapping) for message in messages):
            raise ValueError("a conversation is a list of messages, each with role and content; give a list of these")
    texts: list[str] = []
    for start in range(0, max(len(conversations), 1), AT_ONCE):
        texts += _rendered(template, names, conversations[start : start + AT_ONCE])
    return texts


def _rendered(template: str, names: Mapping[str, str], conversations: Sequence[Sequence[Message]]) -> list[str]:
    others = {"add_generation_prompt": True, "tools": None, "documents": None}
    given = {"template": template, "conversations": [*map(list, conversations)], "names": {**names, **others}}
    return json.loads(run_limited(PROGRAM, json.dumps(given), LIMITS, "the chat template", str(LONGEST), needed=True))
