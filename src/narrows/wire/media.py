"""Pictures, sound and files in the messages of a request: inside them, never fetched.

A remote address would have a server inside fetch what an outsider chose, or tell him what it
fetched. The edge checks a client's parts by this, and the enclave what the edge sends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from narrows.errors import InputError

MAX_PARTS = 64
MEDIA_PARTS = ("image_url", "input_audio", "file")
TEXT_PARTS = ("text", "refusal")
_DATA = re.compile(r"data:([a-z]+/[a-z0-9.+-]{1,80});base64,", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif")
_DETAILS = ("auto", "low", "high")
_SOUNDS = ("wav", "mp3")
_MAX_NAME_CHARS = 256


def media_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of ``MEDIA_PARTS``, rebuilt from what is known of it. InputError says what it must
    be."""
    kind = part.get("type")
    inner = part.get(str(kind))
    if kind not in MEDIA_PARTS or not isinstance(inner, Mapping) or set(part) != {"type", kind}:
        raise InputError("must hold a picture, a sound or a file, and nothing else")
    said = {name: value for name, value in inner.items() if value is not None}
    if kind == "image_url":
        made = _image(said)
    elif kind == "input_audio":
        made = _sound(said)
    else:
        made = _file(said)
    return {"type": kind, kind: made}


def media_bytes(messages: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """How many such parts there are, and their size as the text that they are."""
    count = size = 0
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type") in MEDIA_PARTS:
                count += 1
                size += sum(len(value) for value in part[part["type"]].values())
    return count, size


def check_parts(messages: object, wanted: bool) -> None:
    """InputError where a message has a part that is no text, unless ``wanted`` and it is such a
    part as ``media_part`` makes; or where they are no messages."""
    count = 0
    if not isinstance(messages, list | tuple):
        raise InputError("messages is no list")
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else 0
        if not isinstance(content, str | list | None):
            raise InputError("a message whose content is neither text nor parts")
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, Mapping):
                raise InputError("a message has a part that is no object")
            if part.get("type") in TEXT_PARTS:
                continue
            if not wanted:
                raise InputError(
                    "messages hold a part that is no text",
                    "if the server takes pictures and files, say images = true",
                )
            count += 1
            if count > MAX_PARTS or media_part(part) != part:
                raise InputError("messages hold a part that no edge makes")


def _image(said: Mapping[str, Any]) -> dict[str, str]:
    _only(said, ("url", "detail"))
    made = {"url": _data_url(said.get("url"), _IMAGES)}
    if "detail" in said:
        if said["detail"] not in _DETAILS:
            raise InputError(f"must have a detail of {', '.join(_DETAILS)}")
        made["detail"] = said["detail"]
    return made


def _sound(said: Mapping[str, Any]) -> dict[str, str]:
    _only(said, ("data", "format"))
    if said.get("format") not in _SOUNDS:
        raise InputError(f"must have a format of {', '.join(_SOUNDS)}")
    return {"data": _base64(said.get("data")), "format": said["format"]}


def _file(said: Mapping[str, Any]) -> dict[str, str]:
    if "file_id" in said:
        raise InputError("names a file by its id; no files are kept here: send file_data")
    _only(said, ("file_data", "filename"))
    made = {"file_data": _data_url(said.get("file_data"), ("application/pdf", "text/plain"))}
    name = said.get("filename")
    if name is not None:
        if not isinstance(name, str) or len(name) > _MAX_NAME_CHARS:
            raise InputError(f"must have a filename of {_MAX_NAME_CHARS} characters at most")
        made["filename"] = name
    return made


def _only(said: Mapping[str, Any], names: tuple[str, ...]) -> None:
    if unknown := set(said) - set(names):
        raise InputError(f"may say {' and '.join(names)}, not {min(unknown)[:64]!r}")


def _data_url(value: object, kinds: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise InputError("must have a data URL")
    found = _DATA.match(value)
    if found is None:
        if value[:64].lower().lstrip().startswith("data:"):
            raise InputError("must have a data URL as in data:image/png;base64,iVBORw0…")
        raise InputError("must be sent as a data URL: nothing inside fetches an address")
    if found[1] not in kinds:
        raise InputError(f"must be of {', '.join(kinds)}")
    _base64(value[found.end() :])
    return value


def _base64(value: object) -> str:
    right = isinstance(value, str) and value and len(value) % 4 == 0 and _BASE64.fullmatch(value)
    if not right or not isinstance(value, str):
        raise InputError("must be in base64")
    return value
