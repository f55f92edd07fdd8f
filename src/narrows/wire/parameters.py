"""Parameters of model servers beside OpenAI's plain ones: what may be in each.

The edge checks a client's by it, and the enclave what the edge sends: either may be written by
someone else. Nothing is here that makes a server say more than the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_SCHEMA_CHARS = 131_072
MAX_SCHEMA_VALUES = 16_384
MAX_SCHEMA_DEPTH = 32
MAX_GRAMMAR_CHARS = 65_536
MAX_REGEX_CHARS = 4096
MAX_CHOICES = 256
MAX_CHOICE_CHARS = 1024
MAX_BIASES = 1024
MAX_STOP_IDS = 64
MAX_ID = 1 << 20
MAX_VARIABLES = 16
MAX_VARIABLE_CHARS = 1024

_WORD = re.compile("[a-z]{1,16}")
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]{0,63}")
_ID = re.compile("[0-9]{1,7}")
_NOT_FOR_CLIENTS = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
    "return_dict",
    "bos_token",
    "eos_token",
)
"""What a template gets from the server, whoever asks."""


class Wrong(NamedTuple):
    """What is wrong with a value, to follow its name; ``inner``: the place inside it.
    ``unknown``: there is no such place."""

    what: str
    inner: str = ""
    unknown: bool = False


Check = Callable[[object], Wrong | None]


@dataclass(frozen=True, slots=True)
class Parameter:
    """``neutral``: values that a server without the parameter honours by doing nothing."""

    check: Check
    neutral: tuple[object, ...] = ()

    def is_neutral(self, value: object) -> bool:
        """True is 1 to Python, and no number to JSON."""
        return any(
            value == one and isinstance(value, bool) == isinstance(one, bool)
            for one in self.neutral
        )


def wrong(name: str, value: object) -> Wrong | None:
    """What is wrong with a value of ``PARAMETERS``; None where nothing is."""
    return PARAMETERS[name].check(value)


def together(body: Mapping[str, Any]) -> list[str]:
    """Names of parameters of which a request may hold one: those that force the answer's form,
    or two words for one thing that differ. Empty where it does."""
    forced = [name for name in FORMATS if body.get(name) is not None]
    forced += ["response_format"] if body.get("response_format") else []
    if len(forced) > 1:
        return forced
    values = [body[name] for name in REPETITION if body.get(name) is not None]
    return list(REPETITION) if len(values) > 1 and values[0] != values[1] else []


def shapes_draw(body: Mapping[str, Any]) -> bool:
    """Whether a request makes tokens more or less likely than the model has them."""
    rest = body.keys() & PARAMETERS.keys() - {"reasoning_effort", "chat_template_kwargs"}
    return any(not PARAMETERS[name].is_neutral(body[name]) for name in rest)


def schema_wrong(
    value: object, most_chars: int = MAX_SCHEMA_CHARS, most_values: int = MAX_SCHEMA_VALUES
) -> Wrong | None:
    """Whether a JSON schema is too large or too deep to be worked on."""
    if not isinstance(value, dict):
        return Wrong("must be a JSON schema, an object")
    chars = values = 0
    rest: list[tuple[object, int]] = [(value, 1)]
    while rest:
        one, depth = rest.pop()
        values += 1
        inner: list[Any] = []
        if isinstance(one, str):
            chars += len(one)
        elif isinstance(one, dict):
            chars += sum(map(len, one))
            inner = list(one.values())
        elif isinstance(one, list):
            inner = one
        if inner and depth == MAX_SCHEMA_DEPTH:
            return Wrong(f"nests deeper than {MAX_SCHEMA_DEPTH}")
        rest += [(below, depth + 1) for below in inner]
        if chars > most_chars or values + len(rest) > most_values:
            return Wrong(f"has more than {most_chars:,} characters or {most_values:,} values")
    return None


def _number(low: float, high: float, above: bool = False) -> Check:
    span = f"above {low:g} and at most {high:g}" if above else f"{low:g}..{high:g}"

    def check(value: object) -> Wrong | None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return Wrong("must be a number")
        right = low <= value <= high and not (above and value == low)
        return None if right else Wrong(f"must be {span}")

    return check


def _integer(low: int, high: int) -> Check:
    def check(value: object) -> Wrong | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return Wrong("must be an integer")
        return None if low <= value <= high else Wrong(f"must be {low}..{high}")

    return check


def _text(chars: int) -> Check:
    def check(value: object) -> Wrong | None:
        if isinstance(value, str) and 1 <= len(value) <= chars:
            return None
        return Wrong(f"must be a string of 1..{chars} characters")

    return check


def _flag(value: object) -> Wrong | None:
    return None if isinstance(value, bool) else Wrong("must be true or false")


def _effort(value: object) -> Wrong | None:
    right = isinstance(value, str) and _WORD.fullmatch(value)
    return None if right else Wrong("must be a word, as in low")


def _biases(value: object) -> Wrong | None:
    if not isinstance(value, dict) or len(value) > MAX_BIASES:
        return Wrong(f"must be an object of {MAX_BIASES} token ids at most")
    for name, bias in value.items():
        if not _ID.fullmatch(name) or int(name) > MAX_ID:
            return Wrong("must name token ids")
        if found := _number(-100, 100)(bias):
            return Wrong(found.what, name)
    return None


def _ids(value: object) -> Wrong | None:
    if not isinstance(value, list) or len(value) > MAX_STOP_IDS:
        return Wrong(f"must be a list of {MAX_STOP_IDS} token ids at most")
    bad = any(_integer(0, MAX_ID)(one) for one in value)
    return Wrong(f"must hold token ids, 0..{MAX_ID}") if bad else None


def _choices(value: object) -> Wrong | None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CHOICES:
        return Wrong(f"must be a list of 1..{MAX_CHOICES} strings")
    found = next((one for one in map(_text(MAX_CHOICE_CHARS), value) if one), None)
    return Wrong(f"must hold strings of 1..{MAX_CHOICE_CHARS} characters") if found else None


def _variables(value: object) -> Wrong | None:
    if not isinstance(value, dict) or len(value) > MAX_VARIABLES:
        return Wrong(f"must be an object of {MAX_VARIABLES} names at most")
    for name, said in value.items():
        if not _VARIABLE.fullmatch(name) or name in _NOT_FOR_CLIENTS:
            return Wrong("is nothing that a client may say to the template", name[:64], True)
        if name == "enable_thinking" and not isinstance(said, bool):
            return Wrong("must be true or false", name)
        if isinstance(said, str):
            if len(said) > MAX_VARIABLE_CHARS:
                return Wrong(f"must have {MAX_VARIABLE_CHARS} characters at most", name)
        elif not isinstance(said, bool | int | float):
            return Wrong("must be a string, a number, true or false", name)
    return None


_STRUCTURED: dict[str, Check] = {
    "json": schema_wrong,
    "regex": _text(MAX_REGEX_CHARS),
    "choice": _choices,
    "grammar": _text(MAX_GRAMMAR_CHARS),
    "json_object": _flag,
}


def _structured(value: object) -> Wrong | None:
    said = value if isinstance(value, dict) else {}
    if len(said) != 1 or not said.keys() <= _STRUCTURED.keys():
        return Wrong(f"must be an object with one of {', '.join(_STRUCTURED)}")
    (name, inner), *_ = said.items()
    found = _STRUCTURED[name](inner)
    return found and Wrong(found.what, name)


PARAMETERS: Mapping[str, Parameter] = {
    "presence_penalty": Parameter(_number(-2, 2), (0,)),
    "frequency_penalty": Parameter(_number(-2, 2), (0,)),
    "repetition_penalty": Parameter(_number(0, 10, above=True), (1,)),
    "repeat_penalty": Parameter(_number(0, 10, above=True), (1,)),
    "top_k": Parameter(_integer(-1, MAX_ID), (-1, 0)),
    "min_p": Parameter(_number(0, 1), (0,)),
    "typical_p": Parameter(_number(0, 1), (1,)),
    "logit_bias": Parameter(_biases, ({},)),
    "reasoning_effort": Parameter(_effort),
    "chat_template_kwargs": Parameter(_variables, ({},)),
    "ignore_eos": Parameter(_flag, (False,)),
    "min_tokens": Parameter(_integer(0, MAX_ID), (0,)),
    "stop_token_ids": Parameter(_ids, ([],)),
    "guided_json": Parameter(schema_wrong),
    "guided_regex": Parameter(_text(MAX_REGEX_CHARS)),
    "guided_choice": Parameter(_choices),
    "guided_grammar": Parameter(_text(MAX_GRAMMAR_CHARS)),
    "structured_outputs": Parameter(_structured),
    "grammar": Parameter(_text(MAX_GRAMMAR_CHARS)),
    "json_schema": Parameter(schema_wrong),
    "regex": Parameter(_text(MAX_REGEX_CHARS)),
    "ebnf": Parameter(_text(MAX_GRAMMAR_CHARS)),
}
"""By name."""

REPETITION = ("repetition_penalty", "repeat_penalty")
"""The same: the second is llama.cpp's word."""

FORMATS = (
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "grammar",
    "json_schema",
    "regex",
    "ebnf",
)
"""Those that force the answer's form, one of them at most, and none beside ``response_format``."""
