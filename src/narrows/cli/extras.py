"""Which extra brings a library that a command lacks: the base install is the gate's alone."""

from __future__ import annotations

from narrows.errors import InputError

_EXTRAS = {
    "edge": ("granian", "starlette"),
    "enclave": ("aiohttp", "llguidance"),
    "models": ("jinja2", "msgspec", "numba", "numpy", "safetensors", "tokenizers", "tomli_w"),
    "plan": ("plotly", "zstandard"),
    "metrics": ("prometheus_client",),
    "plots": ("matplotlib",),
    "train": ("torch", "transformers", "accelerate", "peft"),
    "bench": ("xllamacpp", "brotli", "ppmd", "gguf"),
}
# what a person installs for a command, where the library alone does not tell
_COMMANDS = {
    **{name: name for name in ("edge", "enclave", "metrics", "plan")},
    **dict.fromkeys(("init", "up"), "all"),
}


def missing_extra(error: ModuleNotFoundError, words: list[str]) -> InputError | None:
    """The error to show for a library that ``words``, a command, needs and that is not
    installed; None where the module belongs to no extra, which is a bug."""
    library = (error.name or "").partition(".")[0]
    found = next((name for name, libraries in _EXTRAS.items() if library in libraries), None)
    if found is None:
        return None
    extra = _COMMANDS.get(words[0] if words else "", found)
    return InputError(
        f"this command needs {library}, which the base install leaves out",
        f"pip install 'narrows[{extra}]'",
    )
