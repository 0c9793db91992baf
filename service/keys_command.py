"""`headstart keys`: who may use the service."""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from service.access import KeyRecord, KeyringError, create_key, list_keys, revoke_key
from service.access.identity import Rights
from service.endings import BAD_INPUT, stop
from service.settings import SettingsError, load_settings

keys = typer.Typer(help="API keys: once there is one, the service asks for a key.", no_args_is_help=True)


@keys.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose data the key gives access to, and no other's.")],
    label: Annotated[str, typer.Option(help="A note for people.")] = "",
    share_write: Annotated[
        bool, typer.Option("--share-write", help="Other tenants may see what is drawn with the scope public.")
    ] = False,
    share_read: Annotated[
        bool, typer.Option("--share-read", help="May resume from what other tenants share, with the scope public.")
    ] = False,
    operator: Annotated[
        bool, typer.Option("--operator", help="May read figures of the whole service, and give orders to it.")
    ] = False,
) -> None:
    """Make a key and print it: this once, it is kept nowhere."""
    try:
        key, record = create_key(_path(), tenant, label, Rights(share_write, share_read, operator))
    except KeyringError as error:
        stop(error, BAD_INPUT)
    typer.echo(f"key {record.key_id} of tenant {record.tenant}; it is not shown again:", err=True)
    typer.echo(key)


@keys.command("list")
def show() -> None:
    """Print all keys, without what they are."""
    try:
        records = list_keys(_path())
    except KeyringError as error:
        stop(error, BAD_INPUT)
    typer.echo("id        tenant            created           state    rights                      label")
    for record in records:
        typer.echo(_line(record))


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(help="As `headstart keys list` shows it.")]) -> None:
    """Put a key out of force; a running service notices within a second or two."""
    try:
        record = revoke_key(_path(), key_id)
    except KeyringError as error:
        stop(error, BAD_INPUT)
    typer.echo(f"key {record.key_id} of tenant {record.tenant} is revoked")


def _path() -> Path:
    try:
        return load_settings().keys_path
    except SettingsError as error:
        stop(error, BAD_INPUT)


def _line(record: KeyRecord) -> str:
    created = datetime.datetime.fromtimestamp(record.created, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    state = "in force" if record.revoked is None else "revoked"
    given = record.rights
    named = {"share-write": given.share_write, "share-read": given.share_read, "operator": given.operator}
    rights = ",".join(name for name, has in named.items() if has)
    return f"{record.key_id}  {record.tenant:<16}  {created}  {state:<8} {rights:<27} {record.label}".rstrip()
