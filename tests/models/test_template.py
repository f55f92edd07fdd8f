"""Hostile chat templates: whatever would make gigabytes is refused before it does."""

from __future__ import annotations

import jinja2
import pytest

from narrows.models.text.template import TemplateSandbox

BOMBS = [
    "{% set y = '%400000000d' % 1 %}",
    "{% set y = 'x'.center(600000000) %}",
    "{% set y = 'x'|center(900000000) %}",
    "{% set y = 'x' * 900000000 %}",
    "{% set y = 9 ** 999999999 %}",
    "{% set y = '{:900000000}'.format(1) %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}"
    "{% endfor %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}"
    "{% set n.x = n.x.replace('a', 'aaaa') %}{% endfor %}",
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}"
    "{% set n.x = [n.x, n.x]|join(n.x) %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ n.x }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ n.x|tojson }}",
]


@pytest.mark.parametrize("template", BOMBS)
def test_bombs_are_refused(template: str) -> None:
    with pytest.raises((jinja2.exceptions.TemplateError, RecursionError)):
        TemplateSandbox().from_string(template).render()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ 'a' ~ 1 ~ x }}", "a1b"),
        ("{{ 'a' + x }}", "ab"),
        ("{{ (loop_index0 % 2 == 0) }}", "True"),
        ("{{ ['a', x]|join(', ') }}", "a, b"),
        ("{{ 'aXb'.replace('X', '-') }}{{ 'aXb'|replace('X', '+') }}", "a-ba+b"),
        ("{{ {'k': [1, 'ü']}|tojson }}", '{"k": [1, "ü"]}'),
        ("{{ ' a '|trim }}{{ 'ab'|upper }}{{ [1, 2]|length }}", "aAB2"),
        ("{{ 'x y'.split(' ')[1] }}{{ ','.join(['p', 'q']) }}", "yp,q"),
    ],
)
def test_what_templates_use_works(template: str, text: str) -> None:
    assert TemplateSandbox().from_string(template).render(x="b", loop_index0=4) == text
