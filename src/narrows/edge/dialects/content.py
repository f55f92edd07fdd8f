"""Parts of a message that are no text, as the two other APIs write them: as a chat completion's.

Data alone: what they may be is said in ``wire/media.py``, in one place for all dialects and for the
enclave. An address is refused, since nothing inside fetches; so is the id of a file, since none is
kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from narrows.edge.api import policy
from narrows.edge.config import EdgeLimits
from narrows.edge.dialects.fields import BodyFields, texts
from narrows.edge.problems import ApiError, bad_request
from narrows.errors import InputError
from narrows.wire.media import media_part

Part = dict[str, Any]
Content = str | list[Part]
_ADDRESS = "must be sent as data: nothing inside fetches an address"
_FILE_ID = "names a file by its id; no files are kept here: send its data"


def text_part(text: str) -> Part:
    """A part that is text."""
    return {"type": "text", "text": text}


def joined(parts: list[Part]) -> Content:
    """The parts; a string where all are text."""
    if any(part["type"] != "text" for part in parts):
        return parts
    return "".join(part["text"] for part in parts)


Reader = Callable[[BodyFields], Part]


def contents(
    value: object,
    where: str,
    kinds: tuple[str, ...],
    others: Mapping[str, Reader],
    limits: EdgeLimits,
    most: int,
) -> Content:
    """A string, or parts: texts of ``kinds``, and ``others`` by their type. Raises ``ApiError``."""
    if not isinstance(value, list) or len(value) > most:
        return texts(value, where, kinds, most)
    parts = []
    for index, part in enumerate(value):
        place = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind in others:
            fields = BodyFields(part, place)
            fields.take("type")
            parts.append(media(others[kind](fields), place, limits))
            fields.drop(("cache_control", "prompt_cache_breakpoint"))
            fields.finish()
        else:
            parts.append(text_part(texts([part], where, kinds, most)))
    return joined(parts)


def media(part: Part, where: str, limits: EdgeLimits) -> Part:
    """A part of a chat, where the operator lets it in and it is such a one. Raises ``ApiError``."""
    if part["type"] == "text":
        return part
    if not limits.media:
        raise policy.refuse_image_input(0)
    try:
        return media_part(part)
    except InputError as error:
        raise bad_request(f"{where} {error.message}.", where) from error


def input_image(fields: BodyFields) -> Part:
    """Of the Responses API."""
    _no_id(fields)
    inner = {"url": fields.take("image_url"), "detail": fields.take("detail")}
    return {"type": "image_url", "image_url": inner}


def input_file(fields: BodyFields) -> Part:
    """Of the Responses API."""
    _no_id(fields)
    if fields.take("file_url") is not None:
        raise fields.bad("file_url", _ADDRESS)
    inner = {"file_data": fields.take("file_data"), "filename": fields.take("filename")}
    fields.drop(("detail",))
    return {"type": "file", "file": inner}


def input_audio(fields: BodyFields) -> Part:
    """Of the Responses API."""
    return {"type": "input_audio", "input_audio": fields.take("input_audio")}


def image_block(fields: BodyFields) -> Part:
    """Of the Messages API."""
    source = _source(fields)
    return {"type": "image_url", "image_url": {"url": _source_url(source, source.take("type"))}}


def document_block(fields: BodyFields) -> Part:
    """Of the Messages API. One that is text becomes text, which the weak model reads too."""
    title, context = fields.text("title"), fields.text("context")
    citations = fields.inner("citations")
    if citations is not None:
        if citations.flag("enabled"):
            raise citations.bad("enabled", "must be false: citations are not made here")
        citations.finish()
    source = _source(fields)
    kind = source.take("type")
    if kind not in ("text", "content"):
        name = " - ".join(filter(None, (title, context))) or None
        inner = {"file_data": _source_url(source, kind), "filename": name}
        return {"type": "file", "file": inner}
    if kind == "text":
        source.drop(("media_type",))
        said = source.need_text("data")
    else:
        said = texts(source.take("content"), source.path("content"), ("text",), 4096)
    source.finish()
    return text_part("\n".join(filter(None, (title, context, said))))


def _source(fields: BodyFields) -> BodyFields:
    source = fields.inner("source")
    if source is None:
        raise fields.bad("source", "is missing", "missing_required_parameter")
    return source


def _source_url(source: BodyFields, kind: object) -> str:
    if kind != "base64":
        raise _no_data(source, kind)
    url = f"data:{source.need_text('media_type')};base64,{source.need_text('data')}"
    source.finish()
    return url


def _no_data(source: BodyFields, kind: object) -> ApiError:
    if kind == "url":
        return source.bad("type", _ADDRESS)
    return source.bad("type", _FILE_ID if kind == "file" else "must be base64")


def _no_id(fields: BodyFields) -> None:
    if fields.take("file_id") is not None:
        raise fields.bad("file_id", _FILE_ID)
