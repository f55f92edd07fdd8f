"""``narrows weak publish``: sign a weak model that was made outside, or paid for."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.cli.ledger.options import PassphraseOption, StateOption
from narrows.cli.weak.options import training_extra

if TYPE_CHECKING:
    from narrows.models.artifact import Artifact
    from narrows.models.shelf.copies import PrivateCopies
    from narrows.models.shelf.publish import Origin
    from narrows.models.shelf.signed import Figures

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:  narrows weak publish mine.narrows --key alice --run run/ "
    "--teacher weak.narrows --data data/ --answers data/dev.jsonl   |   "
    "narrows weak publish qwen.narrows --key alice --source Qwen2.5-0.5B-Instruct/   |   "
    "narrows weak publish inside.narrows --key alice --paid"
)
def publish(
    file: Annotated[Path, typer.Argument(help="The artifact.")],
    key: Annotated[str, typer.Option(help="Operator key: file, or name under STATE.")],
    run: Annotated[
        list[Path] | None,
        typer.Option(help="The training run that made it, outside; several where averaged."),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder or file of the runs' data; repeatable.")
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="As given to 'narrows weak train' for this run.")
    ] = "smollm2-135m",
    base: Annotated[
        str | None, typer.Option(help="As given to 'narrows weak train' for this run.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="The checkpoint that it was imported from, outside.")
    ] = None,
    paid: Annotated[
        bool, typer.Option("--paid", help="It came through the gate: 'narrows weak receive'.")
    ] = False,
    answers: Annotated[
        Path | None, typer.Option(help="JSONL to measure bits per byte on, for the manifest.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=2, help="Only so many answers.")] = None,
    licence: Annotated[str, typer.Option(help="Licence, for the manifest.")] = "not stated",
    state: StateOption = None,
    passphrase_file: PassphraseOption = None,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Sign an artifact (FILE.signed), after showing that it flows inward.

    What an artifact says of itself counts for nothing. Either it is packed again from a
    training run or a checkpoint outside and compared, tensor by tensor (on the machine that
    trained it: floats differ elsewhere); or its bytes came through the gate and were charged.
    Enclave and edge load only what an operator signed, where 'operators' are configured.

    All files are first copied to TMPDIR: what is compared and signed is one reading of each.
    """
    import dataclasses
    import time

    from narrows.cli.ledger.options import operator_key
    from narrows.deploy.state import state_dir
    from narrows.models.artifact import Artifact
    from narrows.models.shelf.copies import private_copies
    from narrows.models.shelf.publish import manifest_of
    from narrows.models.shelf.signed import Figures, sign, write_signed

    folder = state_dir(state)
    signer = operator_key(key, folder, passphrase_file)
    with private_copies() as copies:
        copy, _ = copies.file(file)
        artifact = Artifact.open(copy)
        origin = _origin(
            artifact, copies, run or [], data or [], (teacher, base), source, paid, folder
        )
        figures = _measure(copy, *copies.file(answers), rows) if answers else Figures()
        manifest = manifest_of(
            artifact, origin, licence=licence, figures=figures, published_s=int(time.time())
        )
    path = write_signed(file, sign(manifest, signer))
    if json:
        typer.echo(json_module.dumps({"signed": str(path)} | dataclasses.asdict(manifest)))
        return
    typer.echo(f"{path}: {manifest.name}, {manifest.evidence}")
    if figures.answers:
        span = f"{figures.low:.3f} .. {figures.high:.3f}"
        typer.echo(f"{figures.bits_per_byte:.3f} bits per byte ({span})")
    typer.echo(
        f"sha256 {manifest.sha256}\nsigned by {signer.public_key().public_bytes_raw().hex()}"
    )


def _origin(
    artifact: Artifact,
    copies: PrivateCopies,
    runs: list[Path],
    data: list[Path],
    models: tuple[str, str | None],
    source: Path | None,
    paid: bool,
    state: Path,
) -> Origin:
    from narrows.errors import InputError
    from narrows.models.registry import load_source, progress_bar
    from narrows.models.shelf.publish import Origin, from_runs, from_source

    if sum((bool(runs), source is not None, paid)) > 1:
        raise InputError("--run, --source and --paid exclude each other")
    if runs:
        with training_extra():
            from narrows.training.rebuild import rebuild_job
        runs = [copies.run(run) for run in runs]
        teacher, base = copies.model(models[0]), models[1] and copies.model(models[1])
        with progress_bar("Reading the data") as progress:
            return from_runs(
                artifact,
                runs,
                lambda path: rebuild_job(runs, path, teacher=teacher, base=base),
                data,
                progress,
            )
    if source is not None:
        from narrows.models.checkpoint.pack import pack

        copy, digests = copies.checkpoint(source)
        with progress_bar("Packing the checkpoint again") as progress:
            return from_source(
                artifact,
                digests,
                lambda path: pack(load_source(str(copy)), path, name="again", progress=progress),
            )
    price = f"{artifact.size_bytes:,}"
    if paid:
        from narrows.edge.pull.receive import receipts

        for receipt in receipts(state):
            if receipt.sha256 == artifact.digest.hex():
                return Origin("paid", f"{receipt.link_bytes} bytes paid at the gate")
        raise InputError(
            f"{artifact.path.name} did not come through the gate: no receipt in {state}",
            f"export it for {price} bytes: 'narrows weak export' inside, "
            "'narrows weak receive' outside",
        )
    raise InputError(
        f"nothing outside shows where {artifact.path.name} was made; what it says of itself "
        "does not count",
        f"--run with --data, or --source; if it was made in the enclave it costs {price} bytes "
        "of budget: 'narrows weak export' inside, 'narrows weak receive' outside, then --paid",
    )


def _measure(file: Path, answers: Path, answers_sha256: str, rows: int | None) -> Figures:
    from narrows.measure.compare import measure
    from narrows.models.registry import progress_bar
    from narrows.models.shelf.signed import Figures

    with progress_bar("Measuring") as progress:
        result = measure(str(file), answers, rows, progress)
    low, high = result.interval()
    return Figures(round(result.bits_per_byte, 4), round(low, 4), round(high, 4),
                   len(result.bits), answers_sha256)  # fmt: skip
