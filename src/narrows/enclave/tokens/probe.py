"""What a server can do, found by asking it: token ids, and tokens drawn with a key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from narrows.coding.events import Failure, NoiseFamily
from narrows.coding.markup import CallForm
from narrows.enclave.chunks import ServerError
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.modelserver import ModelServer
from narrows.enclave.sse import Malformed
from narrows.enclave.tokens.completion import Asked, CompletionReader, NoTokenIds
from narrows.enclave.tokens.dialect import completion
from narrows.enclave.tokens.luck import odds, total
from narrows.enclave.tokens.strong import StrongText
from narrows.enclave.tokens.writing import SAMPLE_CHAT, SAMPLE_TOOLS, sample_prompt
from narrows.errors import ArtifactError, InputError
from narrows.models.text.template_text import strftime_now

log = logging.getLogger("narrows.enclave.upstream")

PROBE_TOKENS = 64
COUPLED_BELOW = 1e-9
"""Odds that tokens which ignore the key look so lucky, for each of two keys."""

_QUESTION = "Name unusual words, one after the other, each from another language."
_TEMPERATURE = 1.5  # chance in every token, and a temperature that has to be applied
_SLACK_CHARS = 16  # of text that a server may hold back at the end
_NOT_THERE = (
    Failure.OVERLOADED,
    Failure.UPSTREAM_REFUSED,
)
WAYS: Mapping[str, tuple[tuple[NoiseFamily, ...], ...]] = {
    "narrows": ((NoiseFamily.KEYED,),),
    "seed-vllm": ((NoiseFamily.SEED_VLLM,),),
    "seed-sglang": ((NoiseFamily.SEED_SGLANG,),),
    "auto": ((NoiseFamily.KEYED,), (NoiseFamily.SEED_VLLM, NoiseFamily.SEED_SGLANG)),
}
"""By the configuration's ``noise``; at most 64 tokens under two keys for each."""
_KEYS = {
    NoiseFamily.KEYED: "keys",
    NoiseFamily.SEED_VLLM: "seeds as vLLM draws",
    NoiseFamily.SEED_SGLANG: "seeds as SGLang draws",
}
_SAID = "narrows counts"
_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "probe", "schema": {"type": "string", "enum": [_SAID]}},
}
_PRINTABLE = re.compile(r"[^ -~]+")  # what a broken character is replaced by is each server's own


@dataclass(frozen=True, slots=True)
class Capability:
    """``ids``: answers can cross as token ids. ``coupled``: and are drawn with the key.
    ``context``: tokens that a prompt and its answer may have. ``reached``: whether the server
    answered at all. ``why``: for people. ``family``: of the noise that it draws with under a key.
    ``native``: ids come by SGLang's own way (``dialect.py``). ``tools``: requests with tools become
    the prompt that the server would make of them. ``formats``: it forces a format on completions.
    """

    ids: bool
    coupled: bool
    why: str
    context: int = 0
    reached: bool = True
    family: NoiseFamily = NoiseFamily.KEYED
    native: bool = False
    tools: bool = False
    formats: bool = False


class ServerProbe:
    """``coins``: random bytes, as many as it is asked for."""

    def __init__(
        self,
        server: ModelServer,
        config: UpstreamConfig,
        strong: StrongText,
        coins: Callable[[int], bytes],
    ) -> None:
        self._server = server
        self._config = config
        self._strong = strong
        self._coins = coins
        self._native = False

    async def __call__(self) -> Capability:
        """Ask. Raises nothing that a server can cause."""
        limit_s = self._config.first_token_timeout_s + self._config.token_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                context = await self._context()
                found = await self._asked(context)
                return await self._more(found) if found.ids else found
        except (InputError, ArtifactError) as error:
            return Capability(False, False, f"the model's template refuses the probe: {error}")
        except NoTokenIds:
            return Capability(False, False, "the server does not say the ids of its tokens")
        except Malformed as error:
            return Capability(False, False, f"the server's completions are malformed: {error}")
        except ServerError as error:
            reached = error.failure not in _NOT_THERE
            return Capability(False, False, f"the server refuses: {str(error)[:200]!r}", 0, reached)
        except TimeoutError:
            return Capability(False, False, "the server is too slow for a probe", 0, False)
        except (aiohttp.ClientError, OSError) as error:
            return Capability(False, False, f"the server cannot be reached: {error}", 0, False)

    async def _context(self) -> int:
        """What the server says of its context; the model's own where it does not say."""
        said = await self._server.ask("/models")
        rows = said.get("data") if isinstance(said, dict) else None
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and row.get("id") == self._config.model:
                limit = row.get("max_model_len")
                if type(limit) is int and limit > 0:
                    return limit  # may be more than the folder says: a server can stretch it
        return self._strong.context

    async def _asked(self, context: int) -> Capability:
        self._native = False
        try:
            return await self._drawn(context)
        except NoTokenIds:
            return await self._by_native(context)

    async def _more(self, found: Capability) -> Capability:
        """``found``, and what else completions can be had for. A server that takes long over it
        has the rest of its abilities nevertheless."""
        tools = formats = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.token_timeout_s / 2):
                tools = await self._tools()
                formats = await self._formats()
        return replace(found, tools=tools, formats=formats)

    async def _tools(self) -> bool:
        """Whether the server makes the same prompt of a chat with tools; a server that does not
        say is taken to."""
        if self._strong.calls is CallForm.NONE:
            return False
        try:
            ours = sample_prompt(self._strong.chat)
        except (InputError, ArtifactError):
            return False  # the form was named by hand, and the template takes no tools
        said = await self._server.ask(
            "/tokenize",
            {
                "model": self._config.model,
                "messages": SAMPLE_CHAT,
                "tools": SAMPLE_TOOLS,
                "chat_template_kwargs": {"date_string": strftime_now("%d %b %Y")},
            },
        )
        theirs = said.get("tokens") if isinstance(said, dict) else None
        same = theirs is None or theirs == ours
        if not same:
            log.warning(
                "requests with tools cross as text: the server makes another prompt of them"
            )
        return same

    async def _formats(self) -> bool:
        """Whether a completion is held to a format, seen in what it says."""
        try:
            one = await self._ask(None, _FORMAT)
        except (ServerError, Malformed) as error:
            log.info("forced formats cross as text: %s", str(error)[:200])
            return False
        data = b"".join(map(self._strong.tokenizer.token_bytes, one.tokens))
        return data.decode("utf-8", "replace").strip() == f'"{_SAID}"'

    async def _by_native(self, context: int) -> Capability:
        """The server hides its ids under ``/v1``: by SGLang's own way, where there is that."""
        self._native = True
        try:
            return await self._drawn(context)
        except (ServerError, Malformed) as error:
            if isinstance(error, ServerError) and error.failure in _NOT_THERE:
                raise
            raise NoTokenIds(str(error)) from error

    async def _drawn(self, context: int) -> Capability:
        """Each way to noise in turn, as far as it may be asked for, until one couples."""
        if self._config.noise == "none":
            return await self._plain(context, 'noise is "none"')
        found, whys = None, []
        for families in WAYS[self._config.noise]:
            if self._native and NoiseFamily.KEYED in families:
                continue  # it takes no key
            try:
                found = await self._under(families, context)
            except ServerError as error:
                if error.failure is not Failure.UPSTREAM_REJECTED:
                    raise
                what = "key" if NoiseFamily.KEYED in families else "seed"
                whys.append(f"the server refuses the {what}: {str(error)[:200]!r}")
                continue
            if found.coupled or not found.ids:
                return found
            whys.append(found.why)
        why = "; ".join(whys) or "this way takes no key"
        return replace(found, why=why) if found else await self._plain(context, why)

    async def _under(self, families: Sequence[NoiseFamily], context: int) -> Capability:
        """Two completions under two keys. Families that are asked for alike are tested on the
        same ones."""
        keys = [self._coins(32), self._coins(32)]
        drawn = await self._all(keys, families[0])
        if wrong := next(filter(None, map(self._misread, drawn)), ""):
            return Capability(False, False, wrong, context)
        counts = [len(one.tokens) for one in drawn]
        told = []
        for family in families:
            sums = [
                total(key, 0, one.tokens, replace(one.asked, family=family).noise)
                for key, one in zip(keys, drawn, strict=True)
            ]
            means = ", ".join(f"{s / max(1, n):.2f}" for s, n in zip(sums, counts, strict=True))
            found = f"luck of {counts[0]} and {counts[1]} tokens under two {_KEYS[family]}: {means}"
            if all(odds(n, s) < COUPLED_BELOW for n, s in zip(counts, sums, strict=True)):
                return Capability(True, True, found, context, family=family, native=self._native)
            told.append(found)
        keyed = NoiseFamily.KEYED in families
        what = "key" if keyed else "seed"
        why = f"the server draws without the {what} ({'; '.join(told)}, 1.00 is none)"
        if keyed:
            why += ": is narrows-vllm there?"
        return Capability(True, False, why, context, native=self._native)

    async def _all(self, keys: Sequence[bytes], family: NoiseFamily) -> list[CompletionReader]:
        """A completion for each key, at once. None goes on where one has failed."""
        tasks = [asyncio.create_task(self._ask(key, family=family)) for key in keys]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _plain(self, context: int, why: str) -> Capability:
        wrong = self._misread(await self._ask(None))
        return Capability(not wrong, False, wrong or why, context, native=self._native)

    async def _ask(
        self,
        key: bytes | None,
        form: Mapping[str, Any] | None = None,
        family: NoiseFamily = NoiseFamily.KEYED,
    ) -> CompletionReader:
        prompt = self._strong.chat.render([{"role": "user", "content": _QUESTION}])
        shaping = {"temperature": _TEMPERATURE, "ignore_eos": form is None}
        asked = Asked(tuple(prompt), PROBE_TOKENS, shaping, key, format=form, family=family)
        reader = CompletionReader(
            asked,
            self._strong.tokenizer,
            max_bytes=self._config.max_answer_bytes,
            keep_text=True,
        )
        async with contextlib.aclosing(
            completion(self._server, self._config.model, asked, reader, self._native)
        ) as events:
            async for _ in events:
                pass
        return reader

    def _misread(self, one: CompletionReader) -> str:
        """What is wrong where the server's text is not what its ids mean to us."""
        if not one.tokens:
            return "the server's completion has no tokens"
        data = b"".join(map(self._strong.tokenizer.token_bytes, one.tokens))
        ours = _PRINTABLE.sub("", data.decode("utf-8", "replace"))
        # In pieces, or all of it in each chunk: the last one says it then.
        for said in ("".join(one.text), *one.text[-1:]):
            theirs = _PRINTABLE.sub("", said)
            if ours.startswith(theirs) and len(ours) - len(theirs) <= _SLACK_CHARS:
                return ""
        return "the server's tokens mean other text than in folder: is that the model it serves?"
