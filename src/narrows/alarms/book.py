"""The one place where alarms and evidence live: in memory, and behind each ``flush`` on disk.

    firing --> open --(acknowledged by a person)--> over
                 \\-- further firings of the same detector and subject only count

- What an alarm does (its policy) holds from the moment it is raised, on disk or not, and over
  restarts; it ends by acknowledgement alone. No alarm and no acknowledgement moves a budget.
- Hysteresis: an open alarm is sent once. One that is raised again within ``quiet_s`` of the last
  one sent for the same detector and subject is filed, and not sent.
- Bounded: ``MAX_OPEN`` open alarms; then one of kind ``full`` stands for all further ones.

``raise_`` and ``refuses`` belong to one thread (the edge's loop); ``flush`` may run in another,
one at a time.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from narrows.alarms.detector import EVERYONE, Detector, Firing
from narrows.alarms.settings import AlarmSettings
from narrows.alarms.store import AlarmStore, EvidenceRow, FiledAlarm

log = logging.getLogger("narrows.alarms")

MAX_OPEN = 4096
_HOUR_S = 3600

Place = tuple[str, int]  # detector, subject


class AlarmBook:
    """``send``: told each alarm that is to be sent; must not block. ``wall_s``: seconds since
    the epoch. ``detectors``: theirs is the evidence; what is on disk is theirs at once."""

    def __init__(
        self,
        store: AlarmStore,
        settings: AlarmSettings,
        detectors: Sequence[Detector],
        send: Callable[[FiledAlarm], None],
        wall_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._settings = settings
        self._detectors = {detector.name: detector for detector in detectors}
        self._send = send
        self._wall_s = wall_s
        self._open: dict[Place, FiledAlarm] = {}
        self._closing: dict[int, FiledAlarm] = {}  # by whom it refuses
        self._guard = threading.Lock()
        self._dirty: dict[Place, FiledAlarm] = {}
        self._evidence: dict[Place, Sequence[float] | None] = {}
        self._sent_s: dict[Place, float] = {}
        self._hour: deque[float] = deque()
        self._ended: list[FiledAlarm] = []
        self._untold: list[FiledAlarm] = []  # filed by an edge that ended before they were sent
        self._load()

    def _load(self) -> None:
        self._store.changed()  # first: what is acknowledged from here on is seen as a change
        for alarm in self._store.alarms(open_only=True):
            self._open.setdefault((alarm.detector, alarm.subject), alarm)
        self._note_closing()
        for name, subject, bits in self._store.evidence():
            if name in self._detectors:
                self._detectors[name].restore(subject, bits)
        self._untold = [alarm for alarm in self._open.values() if not alarm.sent]

    def raise_(self, firing: Firing) -> FiledAlarm:
        """File an alarm; its policy holds from here on."""
        now_s = self._wall_s()
        place = (firing.detector, firing.subject)
        if place not in self._open and len(self._open) >= MAX_OPEN:
            note = f"{MAX_OPEN} alarms are open: no room for more, acknowledge them"
            firing = Firing("full", "full", EVERYONE, 0.0, note)
            place = (firing.detector, firing.subject)
        alarm = self._open.get(place)
        if alarm is not None:
            alarm.last_s, alarm.count = int(now_s), alarm.count + 1
        else:
            alarm = FiledAlarm(
                0,
                firing.kind,
                firing.detector,
                firing.subject,
                self._settings.policy(firing.kind),
                int(now_s),
                int(now_s),
                1,
                firing.evidence_bits,
                firing.note,
            )
            self._open[place] = alarm
            self._close_for(alarm)
            log.warning("alarm %s, %s: %s", firing.detector, _who(firing.subject), firing.note)
            self._send_once(place, alarm, now_s)
        with self._guard:
            self._dirty[place] = alarm
        return alarm

    def _send_once(self, place: Place, alarm: FiledAlarm, now_s: float) -> None:
        while self._hour and self._hour[0] <= now_s - _HOUR_S:
            self._hour.popleft()
        quiet = now_s - self._sent_s.get(place, -_HOUR_S * 24.0) < self._settings.quiet_s
        if quiet or len(self._hour) >= self._settings.per_hour:
            alarm.sent = "held back: too soon behind others"
            return
        self._hour.append(now_s)
        if len(self._sent_s) >= MAX_OPEN:
            self._sent_s.clear()
        self._sent_s[place] = now_s
        self._send(replace(alarm))

    def refuses(self, key_id: int) -> FiledAlarm | None:
        """The open alarm for which this API key's answers are refused."""
        return self._closing.get(EVERYONE) or self._closing.get(key_id)

    @property
    def closed(self) -> bool:
        """Whether all answers are refused."""
        return EVERYONE in self._closing

    def collect(self) -> None:
        """Take the evidence that changed, for the next ``flush``; and end, here too, what was
        acknowledged. The loop's thread."""
        with self._guard:
            for name, detector in self._detectors.items():
                for subject, bits in detector.take_changed():
                    self._evidence[name, subject] = bits
            ended, self._ended = self._ended, []
        untold, self._untold = self._untold, []
        for alarm in untold:
            self._send_once((alarm.detector, alarm.subject), alarm, self._wall_s())
        for alarm in ended:
            self._open.pop((alarm.detector, alarm.subject), None)
            if alarm.kind in self._detectors:
                self._detectors[alarm.kind].forget(alarm.subject)
            log.warning("alarm %s, %s: acknowledged", alarm.detector, _who(alarm.subject))
        if ended:
            self._note_closing()

    def _note_closing(self) -> None:
        self._closing = {}
        for alarm in self._open.values():
            self._close_for(alarm)

    def _close_for(self, alarm: FiledAlarm) -> None:
        if alarm.policy != "tell":
            self._closing[EVERYONE if alarm.policy == "close" else alarm.subject] = alarm

    def flush(self) -> bool:
        """Write what changed, and look for acknowledgements; false, with a log line, where the
        disk refuses. Then all stays for the next call."""
        with self._guard:
            dirty, self._dirty = self._dirty, {}
            evidence, self._evidence = self._evidence, {}
        rows: list[EvidenceRow] = [(name, who, bits) for (name, who), bits in evidence.items()]
        try:
            if dirty or rows:
                self._store.write(list(dirty.values()), rows)
            if self._store.changed():
                self._look_for_ends()
        except sqlite3.Error as error:
            log.error("alarms are not written, kept for the next try: %s", error)
            self._store.look_again()
            with self._guard:
                self._dirty = dirty | self._dirty
                self._evidence = evidence | self._evidence
            return False
        return True

    def _look_for_ends(self) -> None:
        still = {alarm.alarm_id for alarm in self._store.alarms(open_only=True)}
        with self._guard:
            self._ended += [
                alarm
                for alarm in list(self._open.values())
                if alarm.alarm_id and alarm.alarm_id not in still
            ]

    def note_sent(self, alarm: FiledAlarm, outcome: str) -> None:
        """What became of a sending; for people."""
        own = self._open.get((alarm.detector, alarm.subject))
        if own is not None and own.raised_s == alarm.raised_s:
            own.sent = outcome[:200]
            with self._guard:
                self._dirty[alarm.detector, alarm.subject] = own


def _who(subject: int) -> str:
    return "all answers" if subject == EVERYONE else f"key {subject}"
