"""A real gate whose machine stopped being as it must be serves again when it is so again."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from kernel.netns import GATE, OUTSIDE, needs_kernel, wait_until
from kernel.site import LINK_PORT, STATE_PORT, WITNESS_PORT, Edge, Site
from kernel.test_precondition import (
    ENCLAVE_PORT,
    INNER_ENCLAVE,
    INNER_GATE,
    deployed_rules,
    three_machines,
)
from narrows.ledger.office.demo import demo_witness_key

pytestmark = needs_kernel

FLOOD = """
import socket, sys, threading, time
def speak(connection):
    try:
        while True:
            connection.sendall(bytes(200))
            time.sleep(0.02)
    except OSError:
        pass
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    threading.Thread(target=speak, args=(listener.accept()[0],), daemon=True).start()
"""


class TwoCards(Site):
    """The enclave beyond a cable of its own."""

    def config(self, **backstop: object) -> Path:
        path = self.folder / "gate.toml"
        path.write_text(f"""
[gate]
tick_ms = 20
state_host = "{GATE}"
state_port = {STATE_PORT}
witness = "{OUTSIDE}:{WITNESS_PORT}"
witness_key = "{demo_witness_key(self.state).hex()}"
[gate.tls]
cert_file = "{self._gate_files[0]}"
key_file = "{self._gate_files[1]}"
peer_file = "{self._edge_files[0]}"
[[gate.ports]]
listen_host = "{GATE}"
listen_port = {LINK_PORT}
enclave_host = "{INNER_ENCLAVE}"
enclave_port = {ENCLAVE_PORT}
""")
        return path


def test_a_filter_that_was_taken_away_and_put_back() -> None:
    with three_machines() as made, tempfile.TemporaryDirectory() as folder:
        made.settings(conf__all__rp_filter="0", conf__inner__rp_filter="1", ip_forward="0")
        rules = deployed_rules()
        for name, shown in (("gate", "02:00:00:00:02:01"), ("enclave", "02:00:00:00:02:02")):
            rules = rules.replace(shown, made.macs[name])
        made.gate.nft(rules)
        for machine, device, address, mac in (  # the filter lets no question for them in
            (made.gate, "inner", INNER_ENCLAVE, made.macs["enclave"]),
            (made.enclave, "gate0", INNER_GATE, made.macs["gate"]),
        ):
            machine.run("ip", "neigh", "add", address, "lladdr", mac, "dev", device)
        flood = made.enclave.python(FLOOD, INNER_ENCLAVE, str(ENCLAVE_PORT))
        site = TwoCards(made.gate, made.outside, Path(folder), 1 << 40)
        try:
            assert flood.stdout is not None
            assert flood.stdout.readline() == "ready\n"
            site.start_gate()
            link = Edge(site)
            wait_until(lambda: link.arrived_bytes > 0)
            made.gate.run("nft", "delete", "table", "netdev", "cable")
            assert link.ended.wait(60), "a link goes on without the filter"
            link.close()
            time.sleep(3)
            assert site.port_state().state == "machine"
            made.gate.nft(rules)
            began_s = time.monotonic()
            wait_until(lambda: site.port_state().state == "ok")
            print(f"machine: ok again after {time.monotonic() - began_s:.1f} s")
            link = Edge(site)
            wait_until(lambda: link.arrived_bytes > 0)
            link.close()
        finally:
            site.close()
            flood.kill()
            flood.wait()
            for stream in (flood.stdin, flood.stdout):
                if stream is not None:
                    stream.close()
