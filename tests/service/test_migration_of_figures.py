from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config

from service.storage import devices, subnets
from service.storage.database import MIGRATIONS, Database

FILES = '{"card": {"name": "card.json", "sha256": "aa", "size_bytes": 3}}'


def migrate(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_what_an_older_version_stored_is_found_by_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    database = Database(f"sqlite:///{path}")
    migrate(database, "0002")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("insert into devices values ('bench', 'h', 'r', 'fp32', 1, 1, 't')")
        for number, missing in enumerate(("[]", '["a row"]')):
            connection.execute(
                "insert into latency_tables values (?, 'bench', ?, 'space', 10, 5, ?, '{}', '{}', 'json', 't')",
                (f"table{number}", number + 1, missing),
            )
        connection.execute("insert into subnet_requests values ('request', '{}', 'b', 't')")
        for name, accuracy in (("a", 0.5), ("b", 0.7), ("c", 0.6)):
            connection.execute(
                "insert into subnets (id, request_id, supernet_id, space, config, config_digest, predicted_accuracy,"
                " accuracy, macs, params, card, files, created_at)"
                f" values (?, 'request', 'supernet', 'space', '{{}}', 'd', 0.1, ?, 100, 10, '{{}}', '{FILES}', 't')",
                (name, accuracy),
            )
            connection.execute("insert into subnet_latencies values (?, 'bench', ?, null)", (name, 10 * accuracy))
    database.migrate()
    with database.session() as session:
        for device in (None, "bench"):
            page = subnets.subnet_ids(session, 2, None, sort="-accuracy", device=device, supernet="supernet")
            assert page.items == ("b", "c")
            rest = subnets.subnet_ids(
                session, 2, page.next_cursor, sort="-accuracy", device=device, supernet="supernet"
            )
            assert (rest.items, rest.next_cursor) == (("a",), None)
        within = subnets.subnet_ids(session, 9, None, sort="latency_ms", device="bench", at_most={"latency_ms": 6.5})
        assert within.items == ("a", "c")
        assert devices.newest_complete(session, "bench", "space", 10) == "table0"
        assert devices.newest_complete(session, "bench", "space", 11) is None
        assert subnets.formats_wanted(session, "request") == ()
        known = subnets.known(session.connection(), "request")
        assert known is not None
        assert (known.subnet_id, known.files, known.job) == ("b", FILES, None)
        assert subnets.get_many(session, ["c", "nobody", "a"])[0].latencies["bench"].predicted_ms == 6.0
    database.close()


def test_every_browse_is_answered_by_one_index_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.migrate()
    plans = []

    def explain(connection, cursor, statement, parameters, context, executemany) -> None:  # type: ignore[no-untyped-def]
        if statement.startswith("SELECT") and "ORDER BY" in statement:
            plan = connection.connection.cursor().execute(f"explain query plan {statement}", parameters).fetchall()
            plans.append(" / ".join(row[3] for row in plan))

    from sqlalchemy import event

    event.listen(database.engine, "before_cursor_execute", explain)
    limits = {"at_least": {"accuracy": 0.1, "predicted_accuracy": 0.1}, "at_most": {"macs": 9.0, "params": 9.0}}
    with database.session() as session:
        for name in subnets.SORTS:
            for sort in (name, f"-{name}"):
                for device in (None, "bench"):
                    if name == "latency_ms" and device is None:
                        continue
                    subnets.subnet_ids(session, 50, None, sort=sort, device=device, supernet="s", **limits)
    database.close()
    assert len(plans) == 22
    for plan in plans:
        assert "USING COVERING INDEX" in plan, plan
        assert "TEMP B-TREE" not in plan, plan
