"""``narrows key``: API keys of the edge, operator keys of the budget."""

from __future__ import annotations

import typer

from narrows.cli import key_api
from narrows.cli.ledger import key_operator

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="API keys of the edge, operator keys of the budget.",
)
app.command("new", epilog="Example: narrows key new alice --share 1000000")(key_api.key_new)
app.command("list", epilog="Example: narrows key list --json")(key_api.key_list)
app.command("limit", epilog="Example: narrows key limit alice --rpm 60 --tpm none")(
    key_api.key_limit
)
app.command("revoke", epilog="Example: narrows key revoke alice")(key_api.key_revoke)
app.add_typer(key_operator.app, name="operator")
