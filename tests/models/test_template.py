"""Hostile chat templates: whatever would make gigabytes is refused before it does."""

from __future__ import annotations

import jinja2
import pytest

from narrows.models.text.template import TemplateSandbox

BOMBS = [
    "{% set y = '%400000000d' % 1 %}",
    "{% set y = 'x'.center(600000000) %}",
    "{% set y = 'x'|center(900000000) %}",
    "{% set y = 'x'.ljust(900000000) %}",
    "{% set y = 'x'.rjust(900000000) %}",
    "{% set y = 'x'.zfill(900000000) %}",
    "{% set y = '\\t'.expandtabs(900000000) %}",
    "{% set f = 'x'.center %}{{ f(900000000) }}",
    "{% set f = 'x{:9000000}y'.format %}{{ f(1) }}",
    "{{ '{:{w}}'.format(1, w=900000000) }}",
    "{{ '{0:.900000000f}'.format(1.5) }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ '%*d' % (900000000, 1) }}",
    "{{ '%.900000000f' % 1.5 }}",
    "{{ ('%s' * 20000) % ('x' * 1000000) }}",
    "{{ ('{0}' * 20000).format('x' * 1000000) }}",
    "{{ '%900000000d'|format(1) }}",
    "{{ [0] * 900000000 }}",
    "{{ 'a\\n'|indent(900000000) }}",
    "{{ ('\\n' * 1000000)|indent('x' * 1000000, blank=true) }}",
    "{{ ('x ' * 1000000)|wordwrap(1, wrapstring='y' * 1000000) }}",
    "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}",
    "{{ 2 ** 1000000 }}",
    "{{ ([[0] * 1000000] * 1000000)|sum(start=[]) }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ '{0!r}'.format(n.x) }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ '%r' % n.x }}",
    "{{ [1]|tojson(indent=100000000) }}",
    "{{ [1, 2]|tojson(separators=('y' * 1000000, ':')) }}",
    "{{ strftime_now('%900000000d') }}",
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
    "{% set y = '%(a(b))20000000s' % {'a(b)': 'x'} %}",
    "{% set y = '%20000000%' % 1 %}",
    "{% set s = 'x' * 4000000 %}{% set y = '%s' % {1: s, 2: s, 3: s, 4: s, 5: s} %}",
    "{% set s = 'x' * 4000000 %}{% set y = '%s'|format(a=s, b=s, c=s, d=s, e=s) %}",
    "{% set n = ('f' * 3000000)|int(base=16) %}{% set y = '%x%x%x%x%x%x' % (n, n, n, n, n, n) %}",
    "{% set y = ('\\x00' * 50).translate(['x' * 400000]) %}",
    "{% set y = 'a'.translate('b') %}",
    "{% set y = 'a'.translate({97: [1]}) %}",
    "{% set y = 'x'.encode().center(20000000) %}",
    "{% set y = (1).to_bytes(20000000, 'big') %}",
    "{% set y = (1).from_bytes([1], 'big') %}",
    "{% set y = x.center(20000000) %}",
]


@pytest.mark.parametrize("template", BOMBS)
def test_bombs_are_refused(template: str) -> None:
    with pytest.raises((jinja2.exceptions.TemplateError, RecursionError)):
        TemplateSandbox().from_string(template).render(x=b"x")


WORKS = [
    ("{{ 'a' ~ 1 ~ x }}", "a1b"),
    ("{{ 'a' + x }}", "ab"),
    ("{{ (loop_index0 % 2 == 0) }}", "True"),
    ("{{ ['a', x]|join(', ') }}", "a, b"),
    ("{{ 'aXb'.replace('X', '-') }}{{ 'aXb'|replace('X', '+') }}", "a-ba+b"),
    ("{{ {'k': [1, 'ü']}|tojson }}", '{"k": [1, "ü"]}'),
    ("{{ ' a '|trim }}{{ 'ab'|upper }}{{ [1, 2]|length }}", "aAB2"),
    ("{{ 'a'.center(5, '-') }}{{ 'b'.ljust(2) }}{{ 'c'.rjust(2) }}", "--a--b  c"),
    ("{{ '7'.zfill(3) }}{{ 'a\tb'.expandtabs(2) }}", "007a b"),
    ("{{ '{}-{b:>3}'.format(1, b=2) }}", "1-  2"),
    ("{{ '{x}'.format_map({'x': 3}) }}{{ 'ab'.translate({97: 'z'}) }}", "3zb"),
    ("{{ 'abc'.translate({97: none, 98: 'xy', 99: 100}) }}{{ '\x00'.translate(['z']) }}", "xydz"),
    ("{{ '%s is %05.1f%%' % ('x', 2.25) }}{{ '%(k)s' % {'k': 1} }}", "x is 002.2%1"),
    ("{{ '%s!'|format('x') }}{{ 'a'|center(3) }}", "x! a "),
    ("{{ 'a\nb'|indent(2) }}{{ '-' * 3 }}{{ [1] * 2 }}", "a\n  b---[1, 1]"),
    ("{{ [1, 2]|sum }}{{ [{'a': 2}]|sum('a', 1) }}", "33"),
    ("{{ 'aa bb'|wordwrap(2) }}", "aa\nbb"),
    ("{{ 2 ** 3 }}{{ 7 % 4 }}{{ 'a'.join(['x', 'y']) }}", "83xay"),
    (
        "{{ {'b': 1, 'a': 'ü'}|tojson(separators=(',', ':'), sort_keys=true) }}",
        '{"a":"ü","b":1}',
    ),
    ("{{ 'ü'|tojson(ensure_ascii=true) }}{{ [1]|tojson(indent=2) }}", '"\\u00fc"[\n  1\n]'),
    (
        "{{ strftime_now('%d %b %Y') }}{{ strftime_now('%-m/%-d %A') }}",
        "26 Jul 20247/26 Friday",
    ),
    (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "02",
    ),
    ("a{% generation %}{{ x }}{% endgeneration %}c", "abc"),
    (
        "{{ 'A b'.title() }}{{ 'ab'.startswith('a') }}{{ ' x'.lstrip() }}"
        "{{ 'a,b'.partition(',')[2] }}",
        "A BTruexb",
    ),
    ("{{ 'x y'.split(' ')[1] }}{{ ','.join(['p', 'q']) }}", "yp,q"),
]


@pytest.mark.parametrize(("template", "text"), WORKS)
def test_what_templates_use_works(template: str, text: str) -> None:
    assert TemplateSandbox().from_string(template).render(x="b", loop_index0=4) == text


@pytest.mark.parametrize(("template", "text"), WORKS)
def test_it_is_what_transformers_renders(template: str, text: str) -> None:
    """``strftime_now`` apart, which tells the true time there."""
    theirs = pytest.importorskip("transformers.utils.chat_template_utils")
    if "strftime_now" not in template:
        compiled = theirs._compile_jinja_template(template)
        assert compiled.render(x="b", loop_index0=4) == text
