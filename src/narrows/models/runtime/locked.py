"""Methods that run one after the other, whichever threads call them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class HasLock(Protocol):
    lock: threading.RLock


_Self = TypeVar("_Self", bound=HasLock)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def locked(method: Callable[Concatenate[_Self, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """The method under its object's ``lock``."""

    @functools.wraps(method)
    def call(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self.lock:
            return method(self, *args, **kwargs)

    return call
