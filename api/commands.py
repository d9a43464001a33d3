"""The command line: `flask --app app migrate` and its like."""

from __future__ import annotations

import uuid
from typing import TextIO

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

import db
from api import businesses, contract, openapi
from api.errors import InvalidRequest
from api.parts import parts
from db import migrate


def register(app: Flask) -> None:
    """Add the commands to the app."""
    app.cli.add_command(migrate_database)
    app.cli.add_command(create_business)
    app.cli.add_command(write_openapi)


@click.command("migrate")
@with_appcontext
def migrate_database() -> None:
    """Bring the database up to date; safe to run from many places at once."""
    try:
        done = migrate.apply(parts().settings.migration_database_url)
    except db.DatabaseUnavailable as problem:
        raise click.ClickException(f"MIGRATION_DATABASE_URL or DATABASE_URL: {problem.__cause__}") from None
    for migration in done:
        click.echo(f"applied {migration.version:04d} {migration.name}")
    click.echo("the database is up to date")


@click.command("create-business")
@click.argument("business_name")
@click.option("--owner-id", help="UUID of the owner; a new one when left out.")
@with_appcontext
def create_business(business_name: str, owner_id: str | None) -> None:
    """Onboard a business and print its id and first key."""
    body = {"business_name": business_name, "owner_id": owner_id or str(uuid.uuid4())}
    try:
        created = businesses.onboard(contract.checked_body("business_create", body))
    except (db.Conflict, InvalidRequest) as problem:
        raise click.ClickException(str(problem)) from None
    click.echo(f"business_id {created['business_id']}\napi_key     {created['api_key']}")


@click.command("openapi")
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
@with_appcontext
def write_openapi(file: TextIO) -> None:
    """Write the OpenAPI document to FILE: docs/openapi.json is made so."""
    file.write(openapi.text(current_app))
