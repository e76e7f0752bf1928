"""INSERT ... ON CONFLICT, which SQL has no common form of."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite


def insert_if_absent(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> None:
    """Adds the row unless its key is there already."""
    connection.execute(_statement(connection.dialect.name, table, tuple(values), (), ()), values)


def put(
    connection: sa.Connection,
    table: sa.Table,
    values: Mapping[str, Any],
    *key: str,
    add: tuple[str, ...] = (),
) -> None:
    """Adds the row, or changes the one with this key; columns in `add` grow by the values given."""
    statement = _statement(connection.dialect.name, table, tuple(values), key, add)
    connection.execute(statement, values)


def put_all(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], *key: str
) -> None:
    """`put` of many rows with the same columns, in one statement."""
    if rows:
        connection.execute(
            _statement(connection.dialect.name, table, tuple(rows[0]), key, ()), rows
        )


@functools.cache
def _statement(
    dialect: str,
    table: sa.Table,
    names: tuple[str, ...],
    key: tuple[str, ...],
    add: tuple[str, ...],
) -> Any:
    """Made once: making one costs more than running it."""
    statement: Any = _insert(dialect)(table).values({name: sa.bindparam(name) for name in names})
    new = statement.excluded
    rest = {n: table.c[n] + new[n] if n in add else new[n] for n in names if n not in key}
    if not key or not rest:
        return statement.on_conflict_do_nothing()
    return statement.on_conflict_do_update(index_elements=list(key), set_=rest)


def _insert(dialect: str) -> Any:
    if dialect == "sqlite":
        return sqlite.insert
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 (optional)

    return postgresql.insert
