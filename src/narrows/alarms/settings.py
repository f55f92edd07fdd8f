"""What an operator says about alarms: where they go, and what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from narrows.config import out_of_range
from narrows.wire.http_call import is_web

Policy = Literal["tell", "refuse-key", "close"]


@dataclass(frozen=True, slots=True)
class AlarmSettings:
    """``noise``, ``uncoupled``, ``cost``, ``share``: what an alarm of that kind does until it is
    acknowledged: ``tell``; ``refuse-key``: the API key's answers are refused, and all answers where
    it is about all keys; ``close``: all are.
    ``webhook``: gets each alarm by POST, ``command``: on its standard input, as JSON; no shell.
    ``timeout_s``: of one attempt. ``tries``: attempts of the webhook. ``quiet_s``: an alarm of
    the same kind and key is not sent again sooner. ``per_hour``: alarms that are sent at most.
    ``couples``: whether answers at T > 0 are expected to be coupled, ``auto``: once they have been.
    ``null``: file of ``narrows alarms calibrate``; empty: the shipped one."""

    noise: Policy = "tell"
    uncoupled: Policy = "tell"
    cost: Policy = "tell"
    share: Policy = "tell"
    webhook: str = ""
    command: tuple[str, ...] = ()
    timeout_s: float = 10.0
    tries: int = 3
    quiet_s: float = 600.0
    per_hour: int = 60
    couples: Literal["auto", "always", "never"] = "auto"
    null: str = ""

    def problems(self) -> list[str]:
        """What is out of range, a line each."""
        problems = out_of_range(
            [
                ("alarms.timeout_s", self.timeout_s, 0.1, 60),
                ("alarms.tries", self.tries, 1, 10),
                ("alarms.quiet_s", self.quiet_s, 0, 86_400),
                ("alarms.per_hour", self.per_hour, 1, 3600),
            ]
        )
        if self.webhook and not is_web(self.webhook):
            problems.append("alarms.webhook must be an http or https address without a password")
        if self.command and not self.command[0]:
            problems.append("alarms.command must begin with a program")
        if len(self.command) > 64:
            problems.append("alarms.command has more than 64 words")
        return problems

    def policy(self, kind: str) -> Policy:
        """Of an alarm of ``kind``. A book that is full does the strictest that any kind does."""
        own: dict[str, Policy] = {
            "noise": self.noise,
            "uncoupled": self.uncoupled,
            "cost": self.cost,
            "share": self.share,
        }
        if kind in own:
            return own[kind]
        return "tell" if set(own.values()) == {"tell"} else "close"
