"""What operators sign about a net budget: its limits, and who audits which gates on what terms.

    net        the second limit of a lineage, part of its budget (net.py counts against it)
    enrol      an auditor for gates: key, epoch, terms
    revoke     nobody audits these gates any more

Widening the net budget, raising delta, B or the greatest part of a lease, or lowering the
audited share needs k operators; narrowing and revoking needs one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from narrows.ledger.keys import public_of_hex
from narrows.ledger.limits import Limits, parse_limits
from narrows.ledger.log.canonical import Document, Fields, is_name

MAX_AUDITED_GATES = 64
EPOCH_BYTES = 16
PPM = 1_000_000
PPT = 1_000_000_000_000  # of a probability: parts in 10¹²
MAX_SEGMENT_BITS = 1 << 32
GRAIN_BYTES, MAX_GRAIN_BYTES = 1 << 16, 1 << 40


@dataclass(frozen=True, slots=True)
class NetLimits:
    """``limits``: of what nobody explained. ``delta_ppt``: the pool of error probability of the
    lineage's life, in 10⁻¹²; every enrolment takes its share."""

    limits: Limits
    delta_ppt: int

    def within(self, other: NetLimits) -> bool:
        return self.limits.within(other.limits) and self.delta_ppt <= other.delta_ppt

    def document(self) -> Document:
        return {"limits": self.limits.document(), "delta_ppt": self.delta_ppt}


def parse_net(document: object) -> NetLimits:
    fields = Fields(document, "net")
    limits = parse_limits(fields.take("limits"), "net limits", lifetime_required=True)
    net = NetLimits(limits, fields.integer("delta_ppt", 0, PPT))
    fields.done()
    return net


@dataclass(frozen=True, slots=True)
class Terms:
    """What operators allow an auditor. ``audited_ppm``: the share f of segments that it
    audits. ``segment_bits``: B, above which every segment is. ``delta_ppt``: the probability,
    in 10⁻¹², with which its bound may fail, for each gate. ``most_ppm``: the greatest part of a
    lease that it may credit. ``pins``: SHA-256 over the weights, adapters, tokenizer, template
    and fixed prompts that it holds answers to. ``grain_bytes``: totals are multiples of it, so
    that a credit says no more than it must; a document leaves the usual one out."""

    audited_ppm: int
    segment_bits: int
    delta_ppt: int
    most_ppm: int
    pins: str
    grain_bytes: int = GRAIN_BYTES

    def within(self, other: Terms) -> bool:
        """Whether these allow nothing that ``other`` forbids: a lowering."""
        return (
            self.audited_ppm >= other.audited_ppm
            and self.segment_bits <= other.segment_bits
            and self.delta_ppt <= other.delta_ppt
            and self.most_ppm <= other.most_ppm
            and self.pins == other.pins
            and self.grain_bytes >= other.grain_bytes
        )

    def document(self) -> Document:
        return {
            "audited_ppm": self.audited_ppm,
            "segment_bits": self.segment_bits,
            "delta_ppt": self.delta_ppt,
            "most_ppm": self.most_ppm,
            "pins": self.pins,
        } | ({} if self.grain_bytes == GRAIN_BYTES else {"grain_bytes": self.grain_bytes})


def parse_terms(fields: Fields) -> Terms:
    terms = Terms(
        fields.integer("audited_ppm", 1, PPM),
        fields.integer("segment_bits", 1, MAX_SEGMENT_BITS),
        fields.integer("delta_ppt", 1, PPT),
        fields.integer("most_ppm", 1, PPM),
        fields.hex("pins", 32).hex(),
    )
    if not fields.has("grain_bytes"):
        return terms
    grain_bytes = fields.integer("grain_bytes", 1, MAX_GRAIN_BYTES)
    if grain_bytes == GRAIN_BYTES:  # one enrolment has one spelling
        raise fields.bad("grain_bytes")
    return replace(terms, grain_bytes=grain_bytes)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Who audits these gates of a lineage from now on. ``key``: hex Ed25519. ``epoch``: 16
    bytes in hex; the same key and epoch as now means new terms, another epoch a new start."""

    lineage: str
    gates: tuple[str, ...]
    key: str
    epoch: str
    terms: Terms

    def document(self) -> Document:
        names = {"lineage": self.lineage, "gates": list(self.gates)}
        return names | {"key": self.key, "epoch": self.epoch} | self.terms.document()


@dataclass(frozen=True, slots=True)
class Revocation:
    """Nobody audits these gates of a lineage any more."""

    lineage: str
    gates: tuple[str, ...]

    def document(self) -> Document:
        return {"lineage": self.lineage, "gates": list(self.gates)}


def _parse_gates(fields: Fields) -> tuple[str, ...]:
    gates = fields.items("gates", MAX_AUDITED_GATES)
    if not gates or any(not isinstance(gate, str) or not is_name(gate) for gate in gates):
        raise fields.bad("gates")
    if sorted(set(gates)) != gates:
        raise fields.bad("gates")
    return tuple(gates)


def parse_enrolment(fields: Fields) -> Enrolment:
    return Enrolment(
        fields.name("lineage"),
        _parse_gates(fields),
        public_of_hex(fields.take("key"), "the auditor's key").hex(),
        fields.hex("epoch", EPOCH_BYTES).hex(),
        parse_terms(fields),
    )


def parse_revocation(fields: Fields) -> Revocation:
    return Revocation(fields.name("lineage"), _parse_gates(fields))
