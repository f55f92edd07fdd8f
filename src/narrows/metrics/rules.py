"""Alert rules for Prometheus, over the metrics of the list."""

from __future__ import annotations

import json
from dataclasses import dataclass

PAGE, TICKET = "page", "ticket"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """``expression``: PromQL. ``lasts``: how long it has to hold, Prometheus' duration; empty: it
    fires at once. ``severity``: ``page`` wakes somebody, ``ticket`` waits for the morning.
    ``summary``: what happened and what to do, one line."""

    name: str
    expression: str
    lasts: str
    severity: str
    summary: str


ALERTS = (
    AlertRule("NarrowsRoleDown", "narrows_role_up == 0", "1m", PAGE,
              "The {{ $labels.role }} has gone silent, or what it left cannot be read."),
    AlertRule("NarrowsSampleOld", "time() - narrows_sample_timestamp_seconds > 300", "", TICKET,
              "The exporter shows old numbers: see its log."),
    AlertRule("NarrowsWindowNearlyFull",
              "narrows_budget_window_left_bytes < 0.1 * narrows_budget_window_cap_bytes", "", PAGE,
              "Lineage {{ $labels.lineage }}: under 10 % of the window of {{ $labels.window }} is"
              " left. Time helps; find out who uses it: narrows forecast."),
    AlertRule("NarrowsBudgetLow",
              "narrows_budget_left_bytes < 0.1 * narrows_budget_granted_bytes", "", PAGE,
              "Lineage {{ $labels.lineage }}: under 10 % of its lifetime is left. Only people"
              " raise it: docs/budgets.md."),
    AlertRule("NarrowsBudgetEndsThisWeek",
              "predict_linear(narrows_budget_left_bytes[6h], 7 * 86400) < 0", "1h", TICKET,
              "Lineage {{ $labels.lineage }}: at the pace of six hours it ends within a week."),
    AlertRule("NarrowsNetLow", "narrows_net_left_bytes < 0.1 * narrows_net_granted_bytes", "",
              PAGE, "Lineage {{ $labels.lineage }}: under 10 % of its net budget is left; does the"
              " auditor explain what leaves?"),
    AlertRule("NarrowsGateStopped", 'narrows_gate_port_state{state!="ok"} == 1', "2m", PAGE,
              "Gate port {{ $labels.port }} lets nothing out: {{ $labels.state }}."),
    AlertRule("NarrowsGateAlarm",
              "narrows_gate_kernel_alarm == 1 or narrows_gate_machine_refused == 1", "", PAGE,
              "The gate's machine is not as it must be, or the kernel counted more than the gate:"
              " docs/gate.md."),
    AlertRule("NarrowsTapeStopped", "narrows_gate_tape_stopped == 1", "1m", TICKET,
              "Nothing more is copied for the auditor: what leaves now is never explained."),
    AlertRule("NarrowsWitnessSlow",
              "rate(narrows_gate_witness_seconds_total[5m])"
              " > 0.5 * rate(narrows_gate_witness_calls_total[5m])", "10m", TICKET,
              "A call of the witness takes over half a second."),
    AlertRule("NarrowsAuditorSilent", "narrows_auditor_silent_seconds > 1800", "", TICKET,
              "No verdict has come for half an hour: nothing is credited."),
    AlertRule("NarrowsAuditorAlarm", "narrows_auditor_alarms > 0", "", PAGE,
              "The auditor cannot explain what left: docs/audit.md."),
    AlertRule("NarrowsAlarmOpen", "narrows_alarms_open > 0", "", PAGE,
              "A detector rang ({{ $labels.kind }}): narrows alarms list."),
    AlertRule("NarrowsWeakModelDrifts", "narrows_weak_drifting == 1", "1h", TICKET,
              "{{ $labels.weak }} imitates worse than it did: train it on newer answers."),
    AlertRule("NarrowsErrors",
              'sum(rate(narrows_request_errors_total{status=~"5.."}[10m]))'
              " > 0.05 * (sum(rate(narrows_answers_total[10m])) or vector(0))", "10m", PAGE,
              "Over one request in twenty ends in an error of the server."),
    AlertRule("NarrowsSlowFirstToken",
              "histogram_quantile(0.95,"
              " sum by (le) (rate(narrows_first_token_seconds_bucket[10m]))) > 10", "15m", TICKET,
              "One answer in twenty begins after more than ten seconds."),
)  # fmt: skip


def rules_yaml(every_s: float = 15.0) -> str:
    """A rule file; ``every_s``: how often they are looked at."""
    lines = ["# Made by 'narrows metrics --write-rules'.", "groups:", "- name: narrows"]
    lines += [f"  interval: {round(every_s * 1000)}ms", "  rules:"]
    for one in ALERTS:
        lines.append(f"  - alert: {one.name}")
        lines.append(f"    expr: {json.dumps(one.expression)}")
        lines += [f"    for: {one.lasts}"] if one.lasts else []
        lines.append(f"    labels: {{severity: {one.severity}}}")
        lines.append(f"    annotations: {{summary: {json.dumps(one.summary)}}}")
    return "\n".join(lines) + "\n"
