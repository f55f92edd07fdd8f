"""``narrows weak``: weak models: make, measure, sign, switch."""

from __future__ import annotations

from narrows.cli.dispatch import CommandTable

app = CommandTable(
    summary="Weak models: one file each, named by its digest, the same integers everywhere.",
    commands={
        "import": ("narrows.cli.weak.importing", "Make an artifact from a checkpoint."),
        "show": ("narrows.cli.weak.show", "What an artifact says of itself."),
        "check": ("narrows.cli.weak.check", "Does this machine compute its integers?"),
        "data": ("narrows.cli.weak.data", "Import transcripts to train on."),
        "sample": ("narrows.cli.weak.sample", "Answers of a model here, to learn from."),
        "train": ("narrows.cli.weak.train", "Train a small model on answers, and pack it."),
        "average": ("narrows.cli.weak.average", "The mean of several fine-tunings, packed."),
        "compare": ("narrows.cli.weak.compare", "Bits per byte, speed and cost, side by side."),
        "transcripts": ("narrows.cli.weak.transcripts", "What the edge kept; redact, export."),
        "publish": ("narrows.cli.weak.publish", "Sign a model that flows inward."),
        "switch": ("narrows.cli.weak.switch", "Give a running deployment a newer model."),
        "export": ("narrows.cli.weak.export", "A model out of the enclave, and its price."),
        "receive": ("narrows.cli.weak.receive", "Take an exported model from the gate."),
    },
    epilog="Example:\n  narrows weak import model.gguf --out model.narrows",
)
