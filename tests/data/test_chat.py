"""Chat templates beside transformers, and hostile ones."""

import time
from typing import Any

import pytest

from transformer_jax.data.chat import render

pytest.importorskip("jinja2", reason="renders chat templates")

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
PLAIN = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if loop.index0 > 8 %}{% break %}{% endif %}
    {{- '[' + message['role'] + ']' }}{% generation %}{{ message['content'] | trim + eos_token }}{% endgeneration %}
{%- endfor %}
{% if add_generation_prompt %}
    [assistant]{% endif %}"""
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Wo ist „東京“? "}]


def test_a_template_gives_the_text_of_transformers():
    utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="compares with transformers")
    expected, _ = utils.render_jinja_template([TALK], chat_template=PLAIN, add_generation_prompt=True, **NAMES)
    assert render(PLAIN, NAMES, [TALK]) == expected and render(PLAIN, NAMES, []) == []
    assert render(PLAIN, NAMES, [TALK] * 70) == expected * 70
    wrong: Any = TALK  # a conversation, not a list of them
    with pytest.raises((TypeError, ValueError), match="a list of messages|conversations"):
        render(PLAIN, NAMES, wrong)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'a'.ljust(9999999999) }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('only users speak') }}",
        "{% for",
    ],
)
def test_a_hostile_template_is_one_error_within_seconds(template):
    began = time.monotonic()
    with pytest.raises(ValueError, match="^the chat template (cannot be used|takes more than)") as error:
        render(template, NAMES, [TALK])
    assert time.monotonic() < began + 60 and "\n" not in str(error.value)
