"""Answers of a model server as token ids, drawn with the link's noise where the server can."""
