"""Reasoning that stays inside: as a server's text, and as token ids."""
