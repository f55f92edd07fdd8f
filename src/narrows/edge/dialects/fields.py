"""Fields of a hostile JSON object, each taken once, by its name and type; what is left at the end
is refused by its name. Null means absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from narrows.edge.problems import ApiError, bad_request, unknown_field


class BodyFields:
    """``where``: what the object is called in errors, as in ``messages[3]``; empty at the top."""

    def __init__(self, value: object, where: str = "") -> None:
        self._where = where
        if not isinstance(value, Mapping):
            raise bad_request(f"{where} must be an object.", where, "invalid_type")
        self._left = {name: field for name, field in value.items() if field is not None}

    @property
    def where(self) -> str:
        """What the object is called in errors."""
        return self._where

    def path(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def bad(self, name: str, what: str, code: str = "invalid_value") -> ApiError:
        path = self.path(name)
        return bad_request(f"{path} {what}.", path, code)

    def take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise self.bad(name, "must be a string", "invalid_type")
        return value

    def need_text(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise self.bad(name, "is missing", "missing_required_parameter")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise self.bad(name, "must be true or false", "invalid_type")
        return value

    def list(self, name: str, most: int) -> list[Any] | None:
        value = self.take(name)
        if value is not None and (not isinstance(value, list) or len(value) > most):
            raise self.bad(name, f"must be a list of {most} at most", "invalid_type")
        return value

    def inner(self, name: str) -> BodyFields | None:
        value = self.take(name)
        return None if value is None else BodyFields(value, self.path(name))

    def drop(self, names: Iterable[str]) -> None:
        """Accepted whatever they say: they change nothing of the answer."""
        for name in names:
            self._left.pop(name, None)

    def move(self, into: dict[str, Any], names: Mapping[str, str]) -> None:
        """Each that is there, under its other name; who reads ``into`` checks them."""
        for name, other in names.items():
            if (value := self.take(name)) is not None:
                into[other] = value

    def finish(self) -> None:
        for name in self._left:
            raise unknown_field(name, self._where)


def texts(value: object, where: str, kinds: tuple[str, ...], most: int) -> str:
    """A string, or the texts of parts of ``kinds``, joined."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) > most:
        message = f"{where} must be a string or a list of text parts."
        raise bad_request(message, where, "invalid_type")
    found = []
    for index, part in enumerate(value):
        fields = BodyFields(part, f"{where}[{index}]")
        kind = fields.take("type")
        if kind not in kinds:
            raise fields.bad("type", f"must be {' or '.join(kinds)}")
        found.append(fields.need_text("text"))
        fields.drop(("cache_control", "citations", "annotations", "logprobs"))
        fields.finish()
    return "".join(found)
