"""The plugin: requests with a key get the token that the noise chooses.

One class for vLLM's two interfaces, since both load the same entry point and each refuses what
is not its own. The chosen row becomes one-hot (the winner 0, the rest -inf), so whatever vLLM
does behind it cannot change the token, and the request keeps its real temperature: a server
without the plugin samples as asked, uncoupled, and not greedily.

- V1 (``update_state``, ``apply(logits)``): behind grammar, bias, penalties, temperature and
  min_p, since the class says that it leaves the argmax alone. Only rows that vLLM samples.
- V2 (``add_request``, ``apply(logits, context)``): before temperature and min_p, which are
  therefore taken from the request here.

No method that runs in a step raises: vLLM would end the engine, for every request. A row that
cannot be read is left to vLLM's own draw, and the log says so once.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from narrows_vllm.fields import Coupling, coupling
from narrows_vllm.pick import pick

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as _V1
except ImportError:
    _V1 = type("_V1", (), {})
try:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as _V2
except ImportError:  # a vLLM without the second runner
    _V2 = type("_V2", (), {})

log = logging.getLogger("narrows_vllm")

_AT_ONCE = 64  # rows copied at a time: what vLLM leaves of the device's memory is little

_live: weakref.WeakSet[CoupledProcessor] = weakref.WeakSet()


class _Safe:
    """Swallows what is raised inside, and logs the first."""

    def __init__(self) -> None:
        self._said = False

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if not self._said:
            self._said = True
            log.error("a draw is left to vLLM: %r", error, exc_info=error)
        return True


@dataclass
class _Row:
    """A request of the batch. ``out``: V1's own list of its tokens so far."""

    wanted: Coupling
    out: Sequence[int] = ()


_Draw = tuple[int, Coupling, int]
"""A row of the logits, what its request asked for, and the position of its next token."""


class CoupledProcessor(_V1, _V2):  # type: ignore[misc]  # bases that may not be there
    """See the module. Made by vLLM: (config, device, is_pin_memory) or (config, states)."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """ValueError, which vLLM answers with a 400, for what cannot be coupled."""
        coupling(sampling_params)

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        self._rows: dict[int, _Row] = {}
        self._states = rest[0] if len(rest) == 1 else None
        self._config = vllm_config
        self._safe = _Safe()
        self._idle = any(other._config is vllm_config for other in _live)
        if self._idle:
            log.warning("loaded twice: leave out --logits-processors, the entry point is enough")
        _live.add(self)

    def is_argmax_invariant(self) -> bool:
        """Where V1 runs it: behind penalties and temperature, for rows that it samples."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """V1: requests that left, came and moved."""
        if batch_update is None or self._idle:
            return
        with self._safe:
            for index in batch_update.removed:
                self._rows.pop(index, None)
            for index, params, _, out in batch_update.added:
                self._add(index, params, out)
            for source, target, way in batch_update.moved:
                self._move(source, target, swap=getattr(way, "name", "") == "SWAP")

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request takes a slot. Whether it is one of ours."""
        with self._safe:
            return not self._idle and self._add(req_idx, sampling_params, ())
        return False

    def apply(self, logits: Any, context: Any = None) -> Any:
        """Make the rows of coupled requests one-hot, in place."""
        if not self._rows:
            return logits
        todo: list[_Draw] = []
        with self._safe:
            todo = self._v1(len(logits)) if context is None else self._v2(context)
        for first in range(0, len(todo), _AT_ONCE):
            with self._safe:
                self._choose(logits, todo[first : first + _AT_ONCE])
        return logits

    def _add(self, index: int, params: Any, out: Sequence[int]) -> bool:
        self._rows.pop(index, None)
        wanted = coupling(params)
        if wanted is None:
            return False
        if self._states is None:  # V1 has applied them when it comes to us
            wanted = replace(wanted, shape=replace(wanted.shape, temperature=1.0, min_p=0.0))
        self._rows[index] = _Row(wanted, out)
        return True

    def _move(self, source: int, target: int, *, swap: bool) -> None:
        moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
        if moved is not None:
            self._rows[target] = moved
        if swap and other is not None:
            self._rows[source] = other

    def _v1(self, rows: int) -> list[_Draw]:
        """While vLLM schedules ahead, the last entries of ``out`` are placeholders; its length is
        right."""
        return [
            (index, row.wanted, row.wanted.start + len(row.out))
            for index, row in self._rows.items()
            if index < rows
        ]

    def _v2(self, context: Any) -> list[_Draw]:
        states: Any = self._states
        found = []
        for index, (slot, last) in enumerate(
            zip(context.expanded_idx_mapping.tolist(), context.pos.tolist(), strict=True)
        ):
            row = self._rows.get(slot)
            if row is None:
                continue
            produced = last + 1 - int(states.prompt_len.np[slot])
            if produced >= 0:  # else a part of the prompt, whose draw nobody keeps
                found.append((index, row.wanted, row.wanted.start + produced))
        return found

    def _choose(self, logits: Any, todo: Sequence[_Draw]) -> None:
        """One copy for all of ``todo``: each is a wait for the device."""
        host = logits[[index for index, _, _ in todo]].detach().float().cpu().numpy()
        rows: list[int] = []
        tokens: list[int] = []
        for row, (index, wanted, position) in zip(host, todo, strict=True):
            with self._safe:
                token = pick(row, wanted.key, position, wanted.shape)
                if token is None:
                    raise ValueError("a row of logits is no distribution")
                rows.append(index)
                tokens.append(token)
        if rows:
            logits[rows] = float("-inf")
            logits[rows, tokens] = 0.0
