"""The connection to the database, and its schema."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, exc, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from service.errors import BackendError, BusyError
from supernet.errors import ConfigError, StorageError

MIGRATIONS = Path(__file__).parent / "migrations"
_STORE_LOCK, _SCHEMA_LOCK = 7_016_290_114, 7_016_290_115  # numbers that nobody else takes
_LOCK_POLL_S = 0.1


class Database:
    """Opens sessions on one database.

    Args:
        url: SQLAlchemy URL of SQLite, or of PostgreSQL with the driver psycopg.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {"connect_args": {"timeout": 30}} if self.is_sqlite else {"pool_pre_ping": True}
        self.engine = create_engine(url, **options)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
        self._autocommitting = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def session(self, *, exclusive: bool = False) -> Iterator[Session]:
        """A session in one transaction: committed at the end, rolled back on an error.

        Args:
            exclusive: whether no other exclusive session of any process runs at the same time; for what looks first and
                then stores under a name, stages or deletes files. Open no second session inside.

        Raises:
            ConfigError: the database holds no such value.
            BusyError: too many sessions at a time.
            StorageError: the database cannot be read or written (disk full, locked for 30 s, damaged).
        """
        with self._translated(), self._sessions.begin() as session:
            if exclusive:
                session.execute(
                    text("begin immediate" if self.is_sqlite else f"select pg_advisory_xact_lock({_STORE_LOCK})")
                )
            yield session

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection on which every statement sees what is stored at its time, for short looks that happen often.

        Without a beginning and an end of a transaction they take two messages less each way.

        Raises:
            BusyError, ConfigError, StorageError: as of `session`.
        """
        with self._translated(), self._autocommitting.connect() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:  # a fault of the statement, not of the database
            raise
        except exc.DataError as error:
            raise ConfigError(
                f"a value cannot be stored: {_reason(error)}; leave out characters and numbers that no database holds"
            ) from error
        except PoolTimeoutError as error:
            raise BusyError("all connections to the database are busy; send the request again later") from error
        except exc.DatabaseError as error:
            raise self._refusal("the database {} refused", error) from error

    def migrate(self) -> None:
        """Bring the schema to this version's. Does nothing where it is there already.

        Raises:
            StorageError: the database cannot be read or written.
        """
        from alembic import command  # 0.4 s, and only the API process migrates
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        try:
            with self.alone(), self.engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except exc.DatabaseError as error:
            raise self._refusal("cannot prepare the database {}", error) from error

    @cached_property
    def _head(self) -> str | None:
        from alembic.script import ScriptDirectory

        return ScriptDirectory(str(MIGRATIONS)).get_current_head()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Where several processes may start together, one at a time is in such a block; for changes of the schema.

        It asks for PostgreSQL's lock again and again and holds no transaction, because an index that is made
        concurrently, as dbos does, waits for every transaction of others, even for one that waits for a lock.
        """
        if self.is_sqlite:  # one process holds the data folder
            yield
            return
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not connection.scalar(text(f"select pg_try_advisory_lock({_SCHEMA_LOCK})")):
                time.sleep(_LOCK_POLL_S)
            try:
                yield
            finally:
                connection.execute(text(f"select pg_advisory_unlock({_SCHEMA_LOCK})"))

    @contextmanager
    def refusing(self, what: str) -> Iterator[None]:
        """Translate what a library says about this database; `what` has a {} for its name.

        Raises:
            StorageError: the library could not use it.
        """
        try:
            yield
        except SQLAlchemyError as error:
            raise self._refusal(what, error) from error

    def check(self) -> None:
        """See whether the database answers and has this version's schema.

        Raises:
            StorageError: it does not, or has another one.
        """
        with self.session() as session:
            found = session.execute(text("select version_num from alembic_version")).scalars().all()
        if list(found) != [self._head]:
            raise StorageError(
                f"the database has schema {', '.join(found) or 'none'}, this version of onceforall needs {self._head};"
                " start one of this version's API processes, which migrates it, or install the version that made it"
            )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _refusal(self, what: str, error: SQLAlchemyError) -> BackendError:
        url = make_url(self.url)
        where = url.database or "" if self.is_sqlite else url.render_as_string(hide_password=True)
        if isinstance(error, OperationalError):
            step = "free some space or end the program that holds it, then try again"
        else:
            step = "restore it from a copy, or choose another data folder"
        reason = f"{_reason(error)}; {step}"
        told = reason if self.is_sqlite else "its operator finds the reason in the log; try again later"  # names hosts
        return BackendError(f"{what.format(repr(where))}: {reason}", f"{what.format('of the service')}: {told}")


def _reason(error: SQLAlchemyError) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error).splitlines()[0]


def _set_up_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"pragma {pragma}")
    cursor.close()
