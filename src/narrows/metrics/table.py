"""The list of all metrics: what is exposed, the table of docs/metrics.md and the dashboard are made
from it, and alert rules name nothing else. Names and units are Prometheus' conventions."""

from __future__ import annotations

from dataclasses import dataclass

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """``unit``: ``bytes``, ``seconds``, ``ratio``; empty for a count or a yes (1) and no (0).
    ``meaning``: one sentence. ``role``: whose figures they are. ``per_key``: left out unless the
    operator asks."""

    name: str
    kind: str
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    role: str = "ledger"
    per_key: bool = False


_L, _W = ("lineage",), ("lineage", "window")
_P = ("port", "account")
_HOW = ("coding", "mode", "weak")

METRICS = (
    Metric("narrows_role_up", GAUGE, "",
           "1 where figures of a role that ran here are fresh, or its file can be read (ledger,"
           " witness).", ("role",), "all"),
    Metric("narrows_sample_timestamp_seconds", GAUGE, "seconds",
           "When these values were sampled, Unix time.", (), "all"),
    Metric("narrows_sample_duration_seconds", GAUGE, "seconds",
           "How long sampling took.", (), "all"),
    # the ledger
    Metric("narrows_budget_granted_bytes", GAUGE, "bytes", "Lifetime cap of a lineage.", _L),
    Metric("narrows_budget_spent_bytes", GAUGE, "bytes", "Settled and dead, for ever.", _L),
    Metric("narrows_budget_leased_bytes", GAUGE, "bytes", "Leased and not settled.", _L),
    Metric("narrows_budget_left_bytes", GAUGE, "bytes", "What may still be leased, ever.", _L),
    Metric("narrows_budget_window_cap_bytes", GAUGE, "bytes", "Cap of a rolling window.", _W),
    Metric("narrows_budget_window_used_bytes", GAUGE, "bytes",
           "Settled within the window, and leased.", _W),
    Metric("narrows_budget_window_left_bytes", GAUGE, "bytes",
           "What the window has left now.", _W),
    Metric("narrows_net_granted_bytes", GAUGE, "bytes",
           "Net cap: bytes that no auditor explained.", _L),
    Metric("narrows_net_spent_bytes", GAUGE, "bytes", "Net spent, credits taken out.", _L),
    Metric("narrows_net_leased_bytes", GAUGE, "bytes", "Net, leased and not settled.", _L),
    Metric("narrows_net_left_bytes", GAUGE, "bytes", "Net, what may still be leased.", _L),
    Metric("narrows_net_window_cap_bytes", GAUGE, "bytes", "Net cap of a rolling window.", _W),
    Metric("narrows_net_window_used_bytes", GAUGE, "bytes", "Net used within the window.", _W),
    Metric("narrows_net_window_left_bytes", GAUGE, "bytes",
           "Net, what the window has left.", _W),
    Metric("narrows_net_credited_bytes", GAUGE, "bytes", "What auditors explained so far.", _L),
    Metric("narrows_account_spent_bytes", GAUGE, "bytes", "Spent by one account.",
           ("lineage", "account")),
    Metric("narrows_account_left_bytes", GAUGE, "bytes",
           "What one account could lease now, its lineage's limits included.",
           ("lineage", "account")),
    Metric("narrows_leases", GAUGE, "", "Leases that are out.", ("gate", "account")),
    Metric("narrows_ledger_leaves", GAUGE, "", "Leaves of the ledger's log."),
    Metric("narrows_ledger_time_seconds", GAUGE, "seconds",
           "The ledger's time at its newest leaf, Unix time."),
    Metric("narrows_witness_cosigned_leaves", GAUGE, "",
           "Leaves under the witness's newest cosignature.", ("origin",), "witness"),
    Metric("narrows_witness_cosigned_timestamp_seconds", GAUGE, "seconds",
           "When it was made, Unix time.", ("origin",), "witness"),
    # the gate
    Metric("narrows_gate_silent_seconds", GAUGE, "seconds",
           "Since when the gate has written no figures.", (), "gate"),
    Metric("narrows_gate_sent_bytes_total", COUNTER, "bytes",
           "Charged bytes that went to the edge since the gate's start.", _P, "gate"),
    Metric("narrows_gate_timing_bytes_total", COUNTER, "bytes",
           "Charged for moments and silence.", _P, "gate"),
    Metric("narrows_gate_links", GAUGE, "", "Links that are open.", _P, "gate"),
    Metric("narrows_gate_links_opened_total", COUNTER, "", "Links that were opened.", _P, "gate"),
    Metric("narrows_gate_denials_total", COUNTER, "", "Leases that were refused.", _P, "gate"),
    Metric("narrows_gate_port_state", GAUGE, "",
           "1 for what the state line says of a port.", ("port", "state"), "gate"),
    Metric("narrows_gate_lease_acquisitions_total", COUNTER, "",
           "Leases asked of the ledger, store and witness included.", (), "gate"),
    Metric("narrows_gate_lease_seconds_total", COUNTER, "seconds",
           "How long they took.", (), "gate"),
    Metric("narrows_gate_witness_calls_total", COUNTER, "",
           "Calls of the witness by this gate.", (), "gate"),
    Metric("narrows_gate_witness_seconds_total", COUNTER, "seconds",
           "How long they took.", (), "gate"),
    Metric("narrows_gate_kernel_alarm", GAUGE, "",
           "1 where the kernel backstop stopped the gate.", (), "gate"),
    Metric("narrows_gate_machine_refused", GAUGE, "",
           "1 where the gate's machine is not as it must be.", (), "gate"),
    Metric("narrows_gate_tape_stopped", GAUGE, "",
           "1 where nothing more is copied for the auditor.", (), "gate"),
    Metric("narrows_gate_tape_spool_bytes", GAUGE, "bytes", "The tape's spool.", (), "gate"),
    Metric("narrows_gate_unwritten_total", COUNTER, "",
           "Figures that the gate's disk refused.", (), "gate"),
    # the edge
    Metric("narrows_edge_answers_total", COUNTER, "",
           "Answers that reached their client whole.", ("weak",), "edge"),
    Metric("narrows_edge_answer_bytes_total", COUNTER, "bytes",
           "UTF-8 text that was handed to clients.", ("weak",), "edge"),
    Metric("narrows_edge_link_bytes_total", COUNTER, "bytes",
           "Read from the gate, padding and failures included.", ("weak",), "edge"),
    Metric("narrows_edge_tokens_total", COUNTER, "", "Tokens of those answers.",
           ("weak",), "edge"),
    Metric("narrows_answers_total", COUNTER, "", "Whole answers by how they crossed.",
           _HOW, "edge"),
    Metric("narrows_answer_text_bytes_total", COUNTER, "bytes", "Their text.", _HOW, "edge"),
    Metric("narrows_answer_link_bytes_total", COUNTER, "bytes",
           "Their code length on the link.", _HOW, "edge"),
    Metric("narrows_answer_tokens_total", COUNTER, "", "Their tokens.", _HOW, "edge"),
    Metric("narrows_first_token_seconds", HISTOGRAM, "seconds",
           "From the parsed request to the first text of a whole answer.", ("coding",), "edge"),
    Metric("narrows_inter_token_seconds", HISTOGRAM, "seconds",
           "Mean time between two tokens, one observation an answer.", ("coding",), "edge"),
    Metric("narrows_request_errors_total", COUNTER, "", "Requests that ended in an error.",
           ("code", "status"), "edge"),
    Metric("narrows_edge_open_answers", GAUGE, "", "Answers under way.", (), "edge"),
    Metric("narrows_edge_waiting_requests", GAUGE, "", "Requests that wait for a link.",
           ("model",), "edge"),
    Metric("narrows_edge_open_body_bytes", GAUGE, "bytes", "Bodies of requests under way.",
           (), "edge"),
    Metric("narrows_edge_links", GAUGE, "", "Links, with those that drain.", ("model",), "edge"),
    Metric("narrows_edge_link_up", GAUGE, "", "1 where new answers have a link.",
           ("model",), "edge"),
    Metric("narrows_edge_decoder_late_seconds", GAUGE, "seconds",
           "How long the oldest undecoded bytes have waited.", ("model",), "edge"),
    Metric("narrows_edge_strong_model_up", GAUGE, "", "1 where the strong model answers.",
           ("model",), "edge"),
    Metric("narrows_edge_gate_state", GAUGE, "", "1 for what the edge hears of the gate.",
           ("model", "state"), "edge"),
    Metric("narrows_weak_code_ratio", GAUGE, "ratio",
           "Code bytes a text byte in the last days; times 8: bits a byte.", ("weak",), "edge"),
    Metric("narrows_weak_reference_ratio", GAUGE, "ratio",
           "What that is judged by.", ("weak",), "edge"),
    Metric("narrows_weak_drifting", GAUGE, "", "1 where a weak model imitates worse.",
           ("weak",), "edge"),
    Metric("narrows_alarms_open", GAUGE, "", "Alarms that nobody has acknowledged.",
           ("kind",), "edge"),
    Metric("narrows_alarms_raised_total", COUNTER, "", "Alarms that the book holds.",
           ("kind",), "edge"),
    Metric("narrows_key_link_bytes_total", COUNTER, "bytes",
           "Code length by API key: how much one client's answers said.", ("key",), "edge", True),
    Metric("narrows_key_answers_total", COUNTER, "", "Answers by API key.", ("key",), "edge",
           True),
    # the auditor, as its poster books it
    Metric("narrows_auditor_silent_seconds", GAUGE, "seconds",
           "Since the last verdict that came.", (), "auditor"),
    Metric("narrows_auditor_alarms", GAUGE, "",
           "Alarms of the newest verdict, a bit each.", (), "auditor"),
    Metric("narrows_auditor_credits_total", COUNTER, "", "Credits that were booked.",
           (), "auditor"),
    Metric("narrows_auditor_credited_bytes_total", COUNTER, "bytes", "What they gave back.",
           (), "auditor"),
    Metric("narrows_auditor_refused_credits_total", COUNTER, "",
           "Credits that the ledger refused.", (), "auditor"),
    # the enclave, through its telemetry link
    Metric("narrows_enclave_links", GAUGE, "", "Links that the enclave has.", (), "enclave"),
    Metric("narrows_enclave_links_opened_total", COUNTER, "", "Links that it served.",
           (), "enclave"),
    Metric("narrows_enclave_answers_total", COUNTER, "", "Answers by their coding.",
           ("coding",), "enclave"),
    Metric("narrows_enclave_upstream", GAUGE, "",
           "1 where the model's server does that.", ("does",), "enclave"),
    Metric("narrows_enclave_upstream_probes_total", COUNTER, "",
           "How often it was asked what it does.", (), "enclave"),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}


def markdown() -> str:
    """All of them as a table of Markdown."""
    rows = ["| metric | kind | labels | of | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        told = f"{metric.meaning} Only with `--per-key`." if metric.per_key else metric.meaning
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.role} | {told} |")
    return "\n".join(rows) + "\n"
