"""``narrows weak``: weak models: make, measure, sign, switch."""

from __future__ import annotations

from narrows.cli.dispatch import CommandTable

app = CommandTable(
    summary="Weak models: one file each, named by its digest, the same integers everywhere.",
    commands={
        "import": ("narrows.cli.weak_import", "Make an artifact from a checkpoint."),
        "show": ("narrows.cli.weak_show", "What an artifact says of itself."),
        "check": ("narrows.cli.weak_check", "Does this machine compute its integers?"),
        "data": ("narrows.cli.weak_data", "Import transcripts to train on."),
        "sample": ("narrows.cli.weak_sample", "Answers of a model here, to learn from."),
        "train": ("narrows.cli.weak_train", "Train a small model on answers, and pack it."),
        "average": ("narrows.cli.weak_average", "The mean of several fine-tunings, packed."),
        "compare": ("narrows.cli.weak_compare", "Bits per byte, speed and cost, side by side."),
        "transcripts": ("narrows.cli.weak_transcripts", "What the edge kept; redact, export."),
        "publish": ("narrows.cli.weak_publish", "Sign a model that flows inward."),
        "switch": ("narrows.cli.weak_switch", "Give a running deployment a newer model."),
        "export": ("narrows.cli.weak_export", "A model out of the enclave, and its price."),
        "receive": ("narrows.cli.weak_receive", "Take an exported model from the gate."),
    },
    epilog="Example:\n  narrows weak import model.gguf --out model.narrows",
)
