"""What a key may ask in a minute, and at once.

A bucket holds a minute's worth, starts full and fills steadily. A request takes one from the bucket
of requests. What a request costs in tokens is known only when its answers are over: its prompt is
charged by an estimate when it begins, and the rest when it ends, so that the bucket may be in debt,
and the next request waits until it is paid. So answers under way can overrun the limit once, never
the mean; an hour's worth of debt is the most that is remembered.

All of it is this process's memory, and advisory as shares are: the gate's budget knows no keys.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from narrows.edge.books.keys import KeyLimits
from narrows.edge.problems import ApiError, bad_request

MINUTE_S = 60.0
MAX_DEBT_MINUTES = 60


class Bucket:
    """``per_minute``: at least 1. ``level``: what may be taken; negative is debt."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self.level = float(per_minute)
        self._seen_s = now_s

    def set(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.level = min(self.level, per_minute)

    def fill(self, now_s: float) -> None:
        """``now_s`` may stand still, and must not go back."""
        gained = (now_s - self._seen_s) * self.per_minute / MINUTE_S
        self.level = min(float(self.per_minute), self.level + gained)
        self._seen_s = now_s

    def take(self, count: float) -> None:
        most_debt = -float(MAX_DEBT_MINUTES * self.per_minute)
        self.level = min(float(self.per_minute), max(most_debt, self.level - count))

    def wait_s(self, level: float) -> float:
        """Until there is as much as ``level``."""
        return max(0.0, (level - self.level) * MINUTE_S / self.per_minute)


class KeyMeter:
    """What one key has used of its limits."""

    def __init__(self) -> None:
        self.answers = 0
        self._limits = KeyLimits()
        self._buckets: dict[str, Bucket] = {}

    def set(self, limits: KeyLimits, now_s: float) -> None:
        """Limits may have been changed since the last request."""
        for what, per_minute in (("requests", limits.rpm), ("tokens", limits.tpm)):
            bucket = self._buckets.get(what)
            if per_minute is None:
                self._buckets.pop(what, None)
            elif bucket is None:
                self._buckets[what] = Bucket(per_minute, now_s)
            else:
                bucket.fill(now_s)
                bucket.set(per_minute)
        self._limits = limits

    def enter(self) -> None:
        """Take a request. Raises ApiError, and takes nothing then."""
        for what, bucket in self._buckets.items():
            if bucket.level < 1:
                raise _exceeded(f"{bucket.per_minute:,} {what} a minute", bucket.wait_s(1))
        if "requests" in self._buckets:
            self._buckets["requests"].take(1)

    def spend(self, tokens: float, now_s: float) -> None:
        if "tokens" in self._buckets:
            self._buckets["tokens"].fill(now_s)
            self._buckets["tokens"].take(tokens)

    def begin(self, answers: int) -> None:
        """Raises ApiError where so many more are too many at once."""
        most = self._limits.concurrent
        if most is not None and answers > most:
            raise bad_request(
                f"This API key may have {most} answers at once; n asks for more.", "n"
            )
        if most is not None and self.answers + answers > most:
            raise _exceeded(f"{most} answers at once", 1)
        self.answers += answers

    def headers(self) -> dict[str, str]:
        """As OpenAI names them."""
        found: dict[str, str] = {}
        for what, bucket in self._buckets.items():
            found[f"x-ratelimit-limit-{what}"] = str(bucket.per_minute)
            found[f"x-ratelimit-remaining-{what}"] = str(max(0, math.floor(bucket.level)))
            found[f"x-ratelimit-reset-{what}"] = _duration(bucket.wait_s(bucket.per_minute))
        return found


class RateBook:
    """Of one edge. ``clock_s``: monotonic."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._meters: dict[int, KeyMeter] = {}

    def enter(self, key_id: int, limits: KeyLimits, headers: dict[str, str]) -> None:
        """A request of the key begins. ``headers``: get what its reply says of the limits, of a
        refusal too. Raises ApiError."""
        meter = self._meters.get(key_id)
        if limits == KeyLimits() and (meter is None or not meter.answers):
            self._meters.pop(key_id, None)
            return
        meter = self._meters.setdefault(key_id, KeyMeter())
        meter.set(limits, self._clock_s())
        try:
            meter.enter()
        finally:
            headers.update(meter.headers())

    @contextmanager
    def answering(
        self, key_id: int, answers: int, prompt_tokens: int, tokens: Callable[[], int]
    ) -> Iterator[None]:
        """While so many answers are under way. ``prompt_tokens``: an estimate. ``tokens``: what
        came of it, prompt and answers, asked at the end. Raises ApiError."""
        meter = self._meters.get(key_id)
        if meter is None:
            yield
            return
        meter.begin(answers)
        meter.spend(prompt_tokens, self._clock_s())
        try:
            yield
        finally:
            meter.answers -= answers
            meter.spend(tokens() - prompt_tokens, self._clock_s())


def _exceeded(limit: str, wait_s: float) -> ApiError:
    return ApiError(
        429,
        "rate_limit_exceeded",
        f"This API key may have {limit}.",
        kind="rate_limit_error",
        retry=True,
        retry_after_s=max(1, math.ceil(wait_s)),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
