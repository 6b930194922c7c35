"""launch/Dockerfile, as far as it can be judged without building it."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in (ROOT / "launch" / "Dockerfile").read_text().splitlines()
    if line and not line.startswith("#")
]


def test_training_is_the_first_process_and_belongs_to_no_root():
    assert json.loads(dict(INSTRUCTIONS)["ENTRYPOINT"]) == ["transformer-jax"]
    assert dict(INSTRUCTIONS)["USER"] not in ("root", "0")
    assert "--uid 1000" in dict(INSTRUCTIONS)["RUN"] or any("--uid 1000" in value for _, value in INSTRUCTIONS)


def test_what_is_copied_exists_and_is_sent_to_the_builder():
    sent = re.findall(r"^!(.+)$", (ROOT / "launch" / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    copied = [name for key, value in INSTRUCTIONS if key == "COPY" for name in value.split()[:-1]]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / name).exists() for name in copied)


def test_no_version_of_jax_is_named():
    assert not any("jax==" in value or "jax[" in value for _, value in INSTRUCTIONS)
