"""A segment that the quota drops on its first way was never sent, and TCP sends it as new.

The kernel adds it to ``bytes_sent`` each time and to ``bytes_retrans`` never, since for TCP a
segment that its own machine refused has not been sent. A host without a key can bring this
about: it has the gate repeat segments of a link until the quota is used up.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel.frames import serving
from kernel.netns import GATE, Machine, needs_kernel, two_machines, wait_until
from kernel.test_quota_traps import installed
from narrows.gate.backstop.allowance import unexplained, unpaid_bytes

pytestmark = needs_kernel

SIZE_BYTES = 200_000


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as pair:
        yield pair


def test_what_the_quota_dropped_needs_no_lease(machines: tuple[Machine, Machine]) -> None:
    gate, outside = machines
    with installed(gate) as box, serving(gate, SIZE_BYTES) as server:
        allowed = 0
        box.allow(allowed)
        edge = outside.connect(GATE, 8402)
        server.stdin.write("go\n")  # type: ignore[union-attr]
        server.stdin.flush()  # type: ignore[union-attr]
        wait_until(lambda: box.read().flows["links"].dropped_packets > 0)
        edge.settimeout(0.05)
        arrived = 0
        while arrived < SIZE_BYTES:
            allowed += 3_000  # a little at a time: each time the next segment is dropped
            box.allow(allowed)
            try:
                arrived += len(edge.recv(1 << 16))
            except TimeoutError:
                continue
        reading = box.read()
        edge.close()
    tcp, dropped = reading.tcp["links"], reading.flows["links"].dropped_packets
    counted = tcp.sent_bytes - tcp.retransmitted_bytes
    assert counted > SIZE_BYTES, f"the trap: {counted} counted of {SIZE_BYTES}, {dropped} dropped"
    assert 0 >= unpaid_bytes(reading, box.start, SIZE_BYTES) >= -dropped * 100
    assert unexplained(reading, box.start, SIZE_BYTES) == ""
    # what is not paid shows all the same, beyond what was dropped
    assert unpaid_bytes(reading, box.start, SIZE_BYTES - dropped * 100 - 1) > 0
