"""Attacks that really run against gate, edge and ledger, and a probe of an installation.

Nothing of the deployment imports this room. docs/redteam.md: how to run and read it.
"""
