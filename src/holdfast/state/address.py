"""Where a store in PostgreSQL is: `postgresql://USER@HOST/DATABASE#SCHEMA`.

What stands before `#` is libpq's own (its manual, 34.1.1 "Connection Strings"), with its files for passwords; the part
behind it names the schema that holds the tables. Nothing that is shown of it holds a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict

from holdfast.errors import StateError

DEFAULT_SCHEMA = "holdfast_state"
SCHEMA_NAME = re.compile("[a-z][a-z0-9_]{0,39}")
FORM = "postgresql://USER@HOST/DATABASE#SCHEMA"


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says: libpq's settings, and the schema. `shown` is for people."""

    settings: dict[str, str]
    schema: str

    @property
    def shown(self) -> str:
        known = {name: str(value) for name, value in self.settings.items()}
        user = f"{known['user']}@" if "user" in known else ""
        port = f":{known['port']}" if "port" in known else ""
        return f"postgresql://{user}{known.get('host', '')}{port}/{known.get('dbname', '')}#{self.schema}"


def parse(url: str) -> Address:
    """Raises `StateError`, which does not repeat what it cannot read: a password may be in it."""
    conninfo, mark, schema = url.rpartition("#")
    if not mark or "@" in schema:  # then the mark is a part of the password
        conninfo, schema = url, DEFAULT_SCHEMA
    if not SCHEMA_NAME.fullmatch(schema):
        raise StateError("a schema cannot have this name", place=FORM, expected=SCHEMA_NAME.pattern, found=repr(schema))
    try:
        settings = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    except psycopg.Error:
        raise StateError(
            "this is not the URL of a database",
            place="postgresql://…",
            expected=FORM,
            hint="percent-encode what is special in names and passwords, or keep the password in ~/.pgpass",
        ) from None
    return Address(settings, schema)
