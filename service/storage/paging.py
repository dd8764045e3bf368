"""Slices of long lists by cursor: stable under insertions, with the id as tie-break."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_
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
    if cursor is not None:
        query = query.where(_after(order, *_read(cursor, order)))
    columns = (order.key, order.id)
    query = query.order_by(*(column.desc() if order.descending else column.asc() for column in columns))
    rows = list(session.scalars(query.limit(limit + 1)))
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], _write([order.name, getattr(last, order.key.key), getattr(last, order.id.key)])


def _after(order: Order, value: Any, row_id: str) -> ColumnElement[bool]:
    if order.descending:
        return or_(order.key < value, and_(order.key == value, order.id < row_id))
    return or_(order.key > value, and_(order.key == value, order.id > row_id))


def _write(parts: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _read(cursor: str, order: Order) -> tuple[Any, str]:
    try:
        name, value, row_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        f"{value}{row_id}".encode()  # refuses the lone surrogates that JSON can hold and a database cannot
    except (binascii.Error, ValueError, TypeError, RecursionError):
        name, value, row_id = None, None, None
    number = isinstance(value, int | float) and abs(value) < 2**63
    if name != order.name or not (number or isinstance(value, str)) or not isinstance(row_id, str):
        raise ConfigError(
            f"cursor {cursor[:80]!r} is not one of this list in this order; pass next_cursor of the last answer with"
            " the same filters and sort, or no cursor to start again"
        )
    return value, row_id
