"""narrows: a language model served through a link too narrow for its weights."""

__version__ = "0.1.0"
