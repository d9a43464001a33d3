"""The command line: `flask --app app migrate` and its like."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO

import click
from flask import Flask, current_app
from flask.cli import FlaskGroup, with_appcontext

import db
from api import (
    businesses,
    config,
    config_document,
    contract,
    error_page,
    openapi,
    postman,
    retention,
    trail,
)
from api.errors import InvalidRequest
from api.parts import parts
from db import migrate, rotation
from db.cipher import Undecryptable


def register(app: Flask) -> None:
    """Add the commands to the app."""
    app.cli.add_command(migrate_database)
    app.cli.add_command(create_business)
    app.cli.add_command(write_openapi)
    app.cli.add_command(write_postman)
    app.cli.add_command(write_errors)
    app.cli.add_command(export_config)
    app.cli.add_command(import_config)
    app.cli.add_command(rotate_keys)
    app.cli.add_command(purge_old)


def are_wanted() -> bool:
    """Whether `flask` is looking for one of these commands; those of its own, `run` among them, it finds by itself."""
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, FlaskGroup)


def unable(problem: str) -> Flask:
    """The commands without the app, which wants a setting: all can tell about themselves, and most do no more."""
    app = Flask("icmp", static_folder=None)
    app.extensions["icmp is unable"] = problem
    register(app)
    return app


def _in_app(command: Callable[..., None]) -> Callable[..., None]:
    @with_appcontext
    @functools.wraps(command)
    def checked(**arguments: Any) -> None:
        problem = current_app.extensions.get("icmp is unable")
        if problem is not None:
            raise click.ClickException(f"ICMP cannot start: {problem}")
        command(**arguments)

    return checked


@click.command("migrate")
@_in_app
def migrate_database() -> None:
    """Bring the database up to date; safe to run from many places at once."""
    try:
        done = migrate.apply(parts().settings.migration_database_url)
    except db.DatabaseUnavailable as problem:
        told = _first_line(problem.__cause__ or problem)
        raise click.ClickException(f"MIGRATION_DATABASE_URL or DATABASE_URL: {told}") from None
    for migration in done:
        click.echo(f"applied {migration.version:04d} {migration.name}")
    click.echo("the database is up to date")


@click.command("create-business")
@click.argument("business_name")
@click.option("--owner-id", help="UUID of the owner; a new one when left out.")
@_in_app
def create_business(business_name: str, owner_id: str | None) -> None:
    """Onboard a business and print its id and first key."""
    body = {"business_name": business_name, "owner_id": owner_id or str(uuid.uuid4())}
    with _told():
        created = businesses.onboard(contract.checked_body("business_create", body))
    click.echo(f"business_id {created['business_id']}\napi_key     {created['api_key']}")


@click.command("openapi")
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
@_in_app
def write_openapi(file: TextIO) -> None:
    """Write the OpenAPI document to FILE: docs/openapi.json is made so."""
    file.write(openapi.text(current_app))


@click.command("postman")
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
@_in_app
def write_postman(file: TextIO) -> None:
    """Write the Postman collection to FILE: docs/icmp.postman_collection.json is made so."""
    file.write(postman.text(openapi.document(current_app)))


@click.command("list-errors")
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
def write_errors(file: TextIO) -> None:
    """Write the list of errors to FILE: docs/errors.md is made so."""
    file.write(error_page.text())


@click.command("export-config")
@click.argument("business_id", type=click.UUID)
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
@_in_app
def export_config(business_id: uuid.UUID, file: TextIO) -> None:
    """Write a business's set-up to FILE, as YAML."""
    # YAML is for commands only, and every process of a server has this file in memory.
    from api import config_file

    with _told(), parts().database.transaction(str(business_id), of_one_moment=True) as conn:
        document = config.exported(conn, str(business_id))
    file.write(config_file.written(contract.shown(document)))


@click.command("import-config")
@click.argument("business_id", type=click.UUID)
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Tell what would change, and change nothing.")
@_in_app
def import_config(business_id: uuid.UUID, file: BinaryIO, dry_run: bool) -> None:
    """Make a business's set-up what FILE (YAML or JSON) says; what is not in it is deleted."""
    # As above.
    from api import config_file

    with _told():
        document = contract.checked_body("config", config_file.parsed(file.read(config_file.MAX_BYTES + 1)))
        with parts().database.transaction(str(business_id)) as conn:
            found = config.replace(conn, str(business_id), document, dry_run=dry_run)
            if not dry_run:
                trail.record(conn, str(business_id), "config.replace", fields=config_document.sections_changed(found))
    for line in _lines(found):
        click.echo(line)
    click.echo("dry run: nothing was changed" if dry_run else "done")


@click.command("rotate-keys")
@click.option("--new-data-keys", is_flag=True, help="Make a new data key for each business as well.")
@_in_app
def rotate_keys(new_data_keys: bool) -> None:
    """Put every stored key under the active wrapping key; safe while the app serves, and from many places at once."""
    run = rotation.Rotation(parts().database, parts().key_store.keyring)
    with _told(lambda: f"; done so far: {dict(run.counts)}; run it again" if run.counts else ""):
        with parts().database.transaction(None) as conn:
            # Under a key that is not the data's, new data keys would be lost with all that they seal.
            parts().key_store.platform(conn, max_age_s=0)
        run.rewrap_all()
        if new_data_keys:
            run.renew_all()
        with parts().database.transaction(None) as conn:
            trail.record(conn, None, "data_keys.rotate", fields=sorted(run.counts))
    click.echo(f"platform secrets wrapped anew: {run.counts['secrets']}")
    click.echo(f"data keys wrapped anew: {run.counts['data_keys']}")
    if new_data_keys:
        click.echo(f"data keys made: {run.counts['new_data_keys']}, in use in {rotation.SPREAD_SECONDS:.0f} seconds")
    if run.faults:
        raise click.ClickException("; ".join(_unopened(why, whose) for why, whose in run.faults.items()))


def _unopened(why: str, whose: list[str]) -> str:
    names = ", ".join([*whose[:_NAMED], *(["…"] if len(whose) > _NAMED else [])])
    return f"{len(whose)} cannot be opened ({names}): {why}"


_NAMED = 20
_DAYS = click.IntRange(1, 36_500)


@click.command("purge")
@click.option("--messages-older-than", type=_DAYS, metavar="DAYS", help="Conversations without a change for so long.")
@click.option("--events-older-than", type=_DAYS, metavar="DAYS", help="Events received so long ago.")
@click.option("--ended-sessions", is_flag=True, help="Sessions of browsers and people that are over.")
@click.option("--rows", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="In one transaction.")
@_in_app
def purge_old(messages_older_than: int | None, events_older_than: int | None, ended_sessions: bool, rows: int) -> None:
    """Delete what is older than it should be kept, of all businesses: conversations with their messages and ledgers,
    events, sessions. Nothing is deleted that no option names. May run beside traffic and be stopped at any time."""
    if messages_older_than is None and events_older_than is None and not ended_sessions:
        raise click.UsageError("name what to delete: --messages-older-than, --events-older-than or --ended-sessions")
    wish = retention.Wish(messages_older_than, events_older_than, ended_sessions, rows)
    outcome = retention.Outcome()
    try:
        with _told():
            retention.run(parts().database, wish, outcome)
    finally:
        for table, number in sorted(outcome.deleted.items()):
            click.echo(f"deleted {table}: {number}")
        for business_id, fault in outcome.unfinished.items():
            click.echo(f"unfinished business {business_id}: {fault}", err=True)
    if outcome.unfinished:
        raise click.ClickException("not all businesses were finished: run the command again")


@contextmanager
def _told(so_far: Callable[[], str] = str) -> Iterator[None]:
    """What stands in the way, in one line, with what was done `so_far` where that matters."""
    try:
        yield
    except db.NotFound:
        raise click.ClickException("there is no such business") from None
    except Undecryptable as problem:
        raise click.ClickException(f"ENCRYPTION_KEY does not fit the data ({problem}){so_far()}") from None
    except db.KeysUnavailable as problem:
        raise click.ClickException(f"KMS_KEY_ID: {problem}{so_far()}") from None
    except db.DatabaseUnavailable as problem:
        told = _first_line(problem.__cause__ or problem)
        raise click.ClickException(f"DATABASE_URL or DB_HOST: {told}{so_far()}") from None
    except (db.Conflict, InvalidRequest) as problem:
        remediation = getattr(problem, "remediation", "")
        raise click.ClickException(f"{problem}. {remediation}".removesuffix(". ")) from None


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().partition("\n")[0] or type(problem).__name__


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for field in found["changed"]["business"]:
        yield f"changed business: {field}"
    for section in config_document.SECTIONS:
        for kind in ("created", "deleted"):
            yield from (f"{kind} {section}: {name}" for name in found[kind][section])
        for each in found["changed"][section]:
            yield f"changed {section}: {each['name']}: {', '.join(each['fields'])}"
        yield f"unchanged {section}: {len(found['unchanged'][section])}"
