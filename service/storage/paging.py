"""Slices of long lists by cursor: stable under insertions, with the id as tie-break."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from supernet.errors import ConfigError

Column = InstrumentedAttribute[Any]


@dataclass(frozen=True)
class Order:
    """How a list is sorted.

    Attributes:
        name: as the caller wrote it; a cursor of another order is refused.
        key: column to sort by.
        id: unique column that breaks ties.
        descending: whether great values come first (ids too).
    """

    name: str
    key: Column
    id: Column
    descending: bool = False


def slice_of(
    session: Session, query: Select[Any], order: Order, limit: int, cursor: str | None
) -> tuple[list[Any], str | None]:
    """The rows after the cursor, at most `limit`, and the cursor of the next slice.

    Raises:
        ConfigError: the cursor is not one of this list's.
    """
    rows = list(session.scalars(_sliced(query, order, limit, cursor)))
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], _write([order.name, getattr(last, order.key.key), getattr(last, order.id.key)])


def ids_of(
    session: Session, conditions: Sequence[ColumnElement[bool]], order: Order, limit: int, cursor: str | None
) -> tuple[list[str], str | None]:
    """`slice_of` that reads nothing but the order's key and id, so that an index can answer it.

    Raises:
        ConfigError: the cursor is not one of this list's.
    """
    query = select(order.key, order.id).where(*conditions)
    rows = list(session.execute(_sliced(query, order, limit, cursor)))
    following = None if len(rows) <= limit else _write([order.name, *rows[limit - 1]])
    return [row_id for _, row_id in rows[:limit]], following


def _sliced(query: Select[Any], order: Order, limit: int, cursor: str | None) -> Select[Any]:
    """The rows after the cursor in order, and one more, which tells that a slice follows."""
    columns = (order.key, order.id)
    if cursor is not None:
        here, last = tuple_(*columns), tuple_(*_read(cursor, order))  # as a pair: an index goes straight there
        query = query.where(here < last if order.descending else here > last)
    query = query.order_by(*(column.desc() if order.descending else column.asc() for column in columns))
    return query.limit(limit + 1)


def _write(parts: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _read(cursor: str, order: Order) -> tuple[Any, str]:
    try:
        name, value, row_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        f"{value}{row_id}".encode()  # refuses the lone surrogates that JSON can hold and a database cannot
    except (binascii.Error, ValueError, TypeError, RecursionError):
        name, value, row_id = None, None, None
    if order.key.type.python_type is str:
        fits = isinstance(value, str) and "\0" not in value  # PostgreSQL's text holds no zero byte
    else:
        fits = type(value) in (int, float) and abs(value) < 2**63
    if name != order.name or not fits or not isinstance(row_id, str) or "\0" in row_id:
        raise ConfigError(
            f"cursor {cursor[:80]!r} is not one of this list in this order; pass next_cursor of the last answer with"
            " the same filters and sort, or no cursor to start again"
        )
    return value, row_id
