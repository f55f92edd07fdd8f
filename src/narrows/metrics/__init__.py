"""Figures of all roles in Prometheus' form, by a process of its own (docs/metrics.md)."""
