"""Frames as an enclave with power over its own network would forge them, byte by byte."""

from __future__ import annotations

import socket
import struct
from typing import Any

from narrows.isolate.network import (
    ENCLAVE,
    ENCLAVE_MAC,
    ENCLAVE_PORTS,
    GATE_INNER,
    GATE_MAC,
    GATE_PORTS,
)

TCP, UDP, ICMP = 6, 17, 1
SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04
ARP_TYPE, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(
    payload: bytes, kind: int = IPV4, to: str = GATE_MAC, source: str = ENCLAVE_MAC
) -> bytes:
    return mac(to) + mac(source) + struct.pack("!H", kind) + payload


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    payload: bytes,
    protocol: int,
    *,
    source: str = ENCLAVE,
    to: str = GATE_INNER,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s",
        (4 << 4) | words, 0, words * 4 + len(payload), 7, fragment, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(to),
    ) + options  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def tcp(
    source_port: int,
    to_port: int,
    flags: int,
    data: bytes = b"",
    *,
    source: str = ENCLAVE,
    to: str = GATE_INNER,
) -> bytes:
    head = struct.pack("!HHIIBBHHH", source_port, to_port, 1000, 2000, 5 << 4, flags, 65535, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(to)
    pseudo += struct.pack("!BBH", 0, TCP, len(head) + len(data))
    whole = head + data
    return head[:16] + struct.pack("!H", checksum(pseudo + whole)) + head[18:] + data


def udp(source_port: int, to_port: int, data: bytes) -> bytes:
    return struct.pack("!HHHH", source_port, to_port, 8 + len(data), 0) + data


def echo(data: bytes) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + data
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def arp(operation: int, target: str) -> bytes:
    return struct.pack(
        "!HHBBH6s4s6s4s",
        1, IPV4, 6, 4, operation, mac(ENCLAVE_MAC), socket.inet_aton(ENCLAVE), bytes(6),
        socket.inet_aton(target),
    )  # fmt: skip


def ipv6(payload: bytes, next_header: int, to: str) -> bytes:
    source = socket.inet_pton(socket.AF_INET6, "fe80::ff:fe00:202")
    return (
        struct.pack("!IHBB", 6 << 28, len(payload), next_header, 255)
        + source
        + socket.inet_pton(socket.AF_INET6, to)
        + payload
    )


def forged(token: bytes, host: str, gate_outer: str) -> dict[str, bytes]:
    """By name. None of them may be taken in by the gate's kernel."""
    everyone = "ff:ff:ff:ff:ff:ff"
    answers, gate_port = ENCLAVE_PORTS[0], GATE_PORTS[0]
    solicitation = b"\x87\0\0\0" + bytes(4) + socket.inet_pton(socket.AF_INET6, "fe80::1")
    source_route = b"\x83\7\4" + socket.inet_aton(host) + b"\0"
    cards = mac(GATE_MAC) + mac(ENCLAVE_MAC)

    def datagram(ports: tuple[int, int], **addresses: str) -> bytes:
        return ipv4(udp(*ports, token), UDP, **addresses)

    def segment(source_port: int, flags: int, **more: Any) -> bytes:
        """Correct but for what ``more`` says, so that nothing else gets it dropped."""
        ends = {key: more[key] for key in ("source", "to") if key in more}
        return ipv4(tcp(source_port, gate_port, flags, token, **ends), TCP, **more)

    good = segment(answers, ACK)
    inner_echo = ipv4(echo(token), ICMP, to=host)
    packets = {
        "ping": ipv4(echo(token), ICMP),
        "ping of the gate's other side": ipv4(echo(token), ICMP, to=gate_outer),
        "ping of the host": inner_echo,
        "ICMP error": ipv4(b"\3\4\0\0\0\0\0\0" + good[:28], ICMP),
        "UDP": datagram((999, gate_port)),
        "UDP from the answers' port": datagram((answers, gate_port)),
        "DNS": datagram((999, 53)),
        "SYN": segment(999, SYN),
        "SYN from the answers' port": segment(answers, SYN),
        "SYN and FIN": segment(answers, SYN | FIN),
        "SYN and RST": segment(answers, SYN | RST),
        "FIN from elsewhere": segment(999, FIN),
        "SYN and ACK from elsewhere": segment(999, SYN | ACK),
        "ACK from elsewhere": segment(999, ACK),
        "no flags": segment(answers, 0),
        "SYN to the witness": segment(answers, SYN, to="127.0.0.1"),
        "segment to loopback": segment(answers, ACK, to="127.0.0.1"),
        "segment to the gate's other side": segment(answers, ACK, to=gate_outer),
        "segment to the host": segment(answers, ACK, to=host),
        "segment to the world": segment(answers, ACK, to="8.8.8.8"),
        "as if from the host": segment(answers, ACK, source=host),
        "as if from the gate": segment(answers, ACK, source=GATE_INNER),
        "as if from loopback": segment(answers, ACK, source="127.0.0.1"),
        "first fragment": segment(answers, ACK, fragment=0x2000),
        "later fragment": ipv4(token, TCP, fragment=3),
        "record route": segment(answers, ACK, options=b"\7\7\4\0\0\0\0\0"),
        "source route": segment(answers, ACK, options=source_route),
        "IP in IP": ipv4(inner_echo, 4),
        "GRE": ipv4(b"\0\0\x08\0" + inner_echo, 47),
        "SCTP": ipv4(struct.pack("!HHII", answers, gate_port, 0, 0) + token, 132),
        "shorter than a header": b"E",
    }
    return {name: ethernet(packet) for name, packet in packets.items()} | {
        "ARP request": ethernet(arp(1, GATE_INNER), ARP_TYPE, everyone),
        "ARP request to the gate": ethernet(arp(1, GATE_INNER), ARP_TYPE),
        "ARP answer unasked": ethernet(arp(2, GATE_INNER), ARP_TYPE),
        "RARP": ethernet(arp(3, GATE_INNER), 0x8035),
        "broadcast ping": ethernet(ipv4(echo(token), ICMP, to="255.255.255.255"), to=everyone),
        "DHCP": ethernet(datagram((68, 67), source="0.0.0.0", to="255.255.255.255"), to=everyone),
        "multicast DNS": ethernet(datagram((5353, 5353), to="224.0.0.251"), to="01:00:5e:00:00:fb"),
        "IGMP": ethernet(
            ipv4(b"\x16\0\0\0\xe0\0\0\x09", 2, to="224.0.0.9"), to="01:00:5e:00:00:09"
        ),
        "IPv6 solicitation": ethernet(
            ipv6(solicitation, 58, "ff02::1:ff00:1"), IPV6, "33:33:ff:00:00:01"
        ),
        "IPv6 to all": ethernet(
            ipv6(udp(answers, gate_port, token), UDP, "ff02::1"), IPV6, "33:33:00:00:00:01"
        ),
        "IPv6 TCP": ethernet(
            ipv6(tcp(answers, gate_port, ACK, token), TCP, "fe80::ff:fe00:201"), IPV6
        ),
        "tagged": cards + struct.pack("!HHH", VLAN, 5, IPV4) + good,
        "tagged twice": cards + struct.pack("!HHHHH", 0x88A8, 5, VLAN, 6, IPV4) + good,
        "priority tag": cards + struct.pack("!HHH", VLAN, 0, IPV4) + good,
        "to another card": ethernet(good, to="02:00:00:00:09:09"),
        "from another card": ethernet(good, source="02:00:00:00:09:09"),
        "broadcast frame": ethernet(good, to=everyone),
        "spanning tree": ethernet(bytes(38), 38, "01:80:c2:00:00:00"),
        "LLDP": ethernet(token, 0x88CC, "01:80:c2:00:00:0e"),
        "PPPoE": ethernet(b"\x11\x09\0\0\0\0" + token, 0x8863, everyone),
        "unknown protocol": ethernet(token, 0x88B5),
    }
