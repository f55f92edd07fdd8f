"""The cables of an isolated deployment: enclave -- gate -- host, and what may cross them.

    enclave's namespace        gate's namespace                 host
    gate0  198.51.100.2 ───────── inner  198.51.100.1
                               outer  169.254.x.y+1 ─────────── nw-TAG  169.254.x.y
    lo                         lo: witness, poster
    auditor's namespace
    gate0  198.51.100.6 ───────── audit  198.51.100.5

The gate's namespace forwards nothing and has no default route; each of its cables ends at one
machine, so there is nobody else to reach. Rules, in the gate's namespace alone:

1. From the enclave: a TCP segment from one of its two ports to the gate's address, that does
   not open a connection. Everything else (ARP, IPv6, UDP, ICMP, fragments, IP options, tagged
   or foreign frames) is dropped by a netdev chain, before any protocol of the gate's kernel sees
   it. Such a segment can only belong to a connection that the gate has dialled.
   More than FRAMES_PER_S of them are dropped, too: so many and no more reach the gate's TCP. A
   dropped frame still costs its core time.
2. To the enclave: TCP to those two ports.
3. From the host: TCP to the gate's ports. To the host: answers on such connections, never a
   connection of the gate's own.
4. Neighbours toward the enclave are static and IPv6 is off in both namespaces. A packet whose
   source is elsewhere is not taken (rp_filter).
5. Where there are two cores or more, frames from the enclave are worked on by the last one alone
   (RPS), and the gate's process and its outer cable have the others. It makes the channel of
   docs/timing.md smaller, and is not relied on: the enclave's processes share the machine.
6. An auditor, where there is one, has a namespace and a cable of its own, with rules 1, 2 and 4 for
   its one port and AUDIT_FRAMES_PER_S. So it answers the gate, and reaches nobody.

The addresses toward the host are link-local, drawn by the deployment's tag and never routed;
those toward the enclave (a documentation range) exist in the two namespaces only.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from narrows.errors import PeerError
from narrows.isolate.namespaces import NetNamespace, run_tool

GATE_INNER, ENCLAVE = "198.51.100.1", "198.51.100.2"
GATE_MAC, ENCLAVE_MAC = "02:00:00:00:02:01", "02:00:00:00:02:02"
GATE_AUDIT, AUDITOR = "198.51.100.5", "198.51.100.6"
AUDIT_MAC, AUDITOR_MAC = "02:00:00:00:03:01", "02:00:00:00:03:02"
OUTER = "outer"  # in the gate's namespace: where its bytes leave
ENCLAVE_PORTS = (8401, 8404)  # answers, telemetry
GATE_PORTS = (8402, 8403, 8405)  # answers, state, telemetry
AUDITOR_PORT, VERDICTS_PORT = 8409, 8410  # the gate's own is dialled from within its namespace
AUDIT_FRAMES_PER_S, AUDIT_FRAMES_BURST = 1_000, 200
FRAMES_PER_S, FRAMES_BURST = 20_000, 2_000  # an edge that sends 50 MB/s is acknowledged by less
_LINK_LOCAL = ipaddress.ip_network("169.254.0.0/16")
_PAIRS = _LINK_LOCAL.num_addresses // 2

# The gate's own tables (its kernel backstop) have other names: it replaces what it finds there.
RULES = f"""
table netdev cable {{
  counter relayed {{ }}
  counter dropped {{ }}
  chain from_enclave {{
    type filter hook ingress device inner priority 0; policy drop;
    limit rate over {FRAMES_PER_S}/second burst {FRAMES_BURST} packets counter name dropped drop
    ether saddr {ENCLAVE_MAC} ether daddr {GATE_MAC} ether type ip \\
      ip hdrlength 5 ip frag-off & 0x3fff == 0 ip saddr {ENCLAVE} ip daddr {GATE_INNER} \\
      tcp sport {{ {ENCLAVE_PORTS[0]}, {ENCLAVE_PORTS[1]} }} \\
      tcp flags & (syn | ack) != syn tcp flags & (syn | rst | ack) != 0x0 \\
      counter name relayed accept
    counter name dropped
  }}
}}
table inet cable {{
  chain input {{
    type filter hook input priority 0; policy drop;
    iif lo accept
    iifname inner accept
    iifname outer ip saddr HOST tcp dport {{ PORTS }} accept
  }}
  chain forward {{ type filter hook forward priority 0; policy drop; }}
  chain output {{
    type filter hook output priority 0; policy drop;
    oif lo accept
    oifname inner ip daddr {ENCLAVE} tcp dport {{ {ENCLAVE_PORTS[0]}, {ENCLAVE_PORTS[1]} }} accept
    oifname outer ip daddr HOST tcp sport {{ PORTS }} \
      tcp flags & (syn | ack) != syn accept
  }}
}}
"""

# Into the same tables, before the auditor's cable comes up.
AUDIT_RULES = f"""
table netdev cable {{
  counter audit_relayed {{ }}
  counter audit_dropped {{ }}
  chain from_auditor {{
    type filter hook ingress device audit priority 0; policy drop;
    limit rate over {AUDIT_FRAMES_PER_S}/second burst {AUDIT_FRAMES_BURST} packets \
      counter name audit_dropped drop
    ether saddr {AUDITOR_MAC} ether daddr {AUDIT_MAC} ether type ip \
      ip hdrlength 5 ip frag-off & 0x3fff == 0 ip saddr {AUDITOR} ip daddr {GATE_AUDIT} \
      tcp sport {AUDITOR_PORT} \
      tcp flags & (syn | ack) != syn tcp flags & (syn | rst | ack) != 0x0 \
      counter name audit_relayed accept
    counter name audit_dropped
  }}
}}
table inet cable {{
  chain input {{ iifname audit accept; }}
  chain output {{ oifname audit ip daddr {AUDITOR} tcp dport {AUDITOR_PORT} accept; }}
}}
"""


@dataclass(frozen=True)
class Network:
    """The namespaces, wired. ``host`` and ``gate_outer``: the two ends of the outer cable."""

    gate: NetNamespace
    enclave: NetNamespace
    device: str
    host: str
    gate_outer: str
    auditor: NetNamespace | None = None

    def enter_gate(self) -> None:
        """For the gate's process, between fork and exec: its namespace, and its cores."""
        self.gate.enter()
        os.sched_setaffinity(0, split_cores()[0])


def split_cores() -> tuple[frozenset[int], frozenset[int]]:
    """The cores of the gate and its outer cable, and those for frames from the enclave: apart
    where this process may use two or more."""
    cores = frozenset(os.sched_getaffinity(0))
    last = frozenset({max(cores)})
    return (cores - last or cores), last


def device_name(tag: int) -> str:
    """The host's end of the outer cable. ``tag``: 28 bits, the deployment's own."""
    return f"nw-{tag:07x}"


@contextmanager
def wired(tag: int, audited: bool = False) -> Iterator[Network]:
    """Make namespaces and cables, the auditor's where it is ``audited``; gone at the end, or when
    this process is."""
    device = device_name(tag)
    remove_device(device)
    with contextlib.ExitStack() as stack:
        gate, enclave = NetNamespace(), NetNamespace()
        stack.callback(gate.close)
        stack.callback(enclave.close)
        stack.callback(remove_device, device)
        host, gate_outer = _free_pair(tag)
        network = Network(gate, enclave, device, host, gate_outer)
        for namespace in (gate, enclave):
            namespace.run(_quiet)
        _close_gate(network)  # before there is a cable to the enclave
        if audited:
            auditor = NetNamespace()
            stack.callback(auditor.close)
            auditor.run(_quiet)
            network = replace(network, auditor=auditor)
            _connect_auditor(network.gate, auditor)
        _connect(network)
        _steer(network)
        yield network


def remove_device(device: str) -> None:
    """The host's end and with it the cable; nothing where there is none."""
    if _has(device):
        # It may go by itself at this moment, with the namespace at its other end.
        with contextlib.suppress(PeerError):
            run_tool(["ip", "link", "delete", device])
        if _has(device):
            raise PeerError(f"the device {device} cannot be removed")


def _has(device: str) -> bool:
    links = json.loads(run_tool(["ip", "-json", "link"]))
    return any(link.get("ifname") == device for link in links)


def _quiet() -> None:
    """Rule 4, and no forwarding: a new namespace may inherit the host's. Without IPv6 in the
    kernel there is nothing to switch off."""
    settings = Path("/proc/sys/net")
    for switch in ("ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"):
        if (settings / "ipv6").exists():
            (settings / switch).write_text("1")
    (settings / "ipv4/ip_forward").write_text("0")
    (settings / "ipv4/conf/all/rp_filter").write_text("1")


def _close_gate(network: Network) -> None:
    network.gate.tool(
        ["ip", "-batch", "-"],
        "link set lo up\n"
        f"link add inner address {GATE_MAC} type veth "
        f"peer name gate0 address {ENCLAVE_MAC} netns {network.enclave.path}\n",
    )
    rules = RULES.replace("HOST", network.host).replace("PORTS", ", ".join(map(str, GATE_PORTS)))
    network.gate.tool(["nft", "-f", "-"], rules)


def _connect(network: Network) -> None:
    run_tool(
        ["ip", "-batch", "-"],
        f"link add {network.device} type veth peer name outer netns {network.gate.path}\n"
        f"addr add {network.host}/31 dev {network.device} scope link\n"
        f"link set {network.device} up\n",
    )
    network.gate.tool(
        ["ip", "-batch", "-"],
        f"addr add {network.gate_outer}/31 dev outer\nlink set outer up\n"
        f"link set inner arp off\naddr add {GATE_INNER}/30 dev inner\nlink set inner up\n"
        f"neigh replace {ENCLAVE} lladdr {ENCLAVE_MAC} nud permanent dev inner\n",
    )
    network.enclave.tool(
        ["ip", "-batch", "-"],
        "link set lo up\nlink set gate0 arp off\n"
        f"addr add {ENCLAVE}/30 dev gate0\nlink set gate0 up\n"
        f"neigh replace {GATE_INNER} lladdr {GATE_MAC} nud permanent dev gate0\n",
    )


def _connect_auditor(gate: NetNamespace, auditor: NetNamespace) -> None:
    gate.tool(
        ["ip", "-batch", "-"],
        f"link add audit address {AUDIT_MAC} type veth "
        f"peer name gate0 address {AUDITOR_MAC} netns {auditor.path}\n",
    )
    gate.tool(["nft", "-f", "-"], AUDIT_RULES)
    gate.tool(
        ["ip", "-batch", "-"],
        f"link set audit arp off\naddr add {GATE_AUDIT}/30 dev audit\nlink set audit up\n"
        f"neigh replace {AUDITOR} lladdr {AUDITOR_MAC} nud permanent dev audit\n",
    )
    auditor.tool(
        ["ip", "-batch", "-"],
        "link set lo up\nlink set gate0 arp off\n"
        f"addr add {AUDITOR}/30 dev gate0\nlink set gate0 up\n"
        f"neigh replace {GATE_AUDIT} lladdr {AUDIT_MAC} nud permanent dev gate0\n",
    )


def _steer(network: Network) -> None:
    """Rule 5. A host that does not let it be set stays as it is."""
    outer, inner = split_cores()
    if outer == inner:
        return
    with contextlib.suppress(PeerError):
        set_rps(network.gate, "inner", inner)
        set_rps(network.enclave, "gate0", inner)
        set_rps(network.gate, OUTER, outer)
        if network.auditor is not None:
            set_rps(network.gate, "audit", inner)
            set_rps(network.auditor, "gate0", inner)


def set_rps(namespace: NetNamespace, device: str, cores: frozenset[int]) -> None:
    """/sys shows the devices of the namespace in which it was mounted: it is mounted anew."""
    mask = f"{sum(1 << core for core in cores):x}"
    words = ",".join(mask[max(0, end - 8) : end] for end in reversed(range(len(mask), 0, -8)))
    queues = f"/sys/class/net/{device}/queues/rx-*/rps_cpus"
    script = f"mount -t sysfs none /sys && for queue in {queues}; do echo {words} > $queue; done"
    namespace.tool(["unshare", "--mount", "sh", "-ec", script])


def _free_pair(tag: int) -> tuple[str, str]:
    """Two neighbouring link-local addresses that overlap with no address of the host. The
    search starts where the tag says, so two deployments that start at once do not meet."""
    taken = []
    for device in json.loads(run_tool(["ip", "-json", "-4", "address"])):
        for entry in device.get("addr_info", ()):
            prefix = entry["prefixlen"] if entry["prefixlen"] > _LINK_LOCAL.prefixlen else 32
            taken.append(ipaddress.ip_network(f"{entry['local']}/{prefix}", strict=False))
    for step in range(_PAIRS):
        first = _LINK_LOCAL[2 * ((tag + step) % _PAIRS)]
        pair = ipaddress.ip_network(f"{first}/31")
        if first.packed[2] in (0, 169, 255):  # reserved, and where clouds serve metadata
            continue
        if not any(pair.overlaps(network) for network in taken):
            return str(first), str(first + 1)
    raise PeerError("no link-local address is free on this host")
