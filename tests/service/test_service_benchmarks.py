"""The benchmarks of the service measure what they say: slowest answers, closed connections, tables that are lost."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from small_service import make_table

from benchmarks.service_crashes import lost_tables
from benchmarks.service_hostile import ATTACKS, HUNG_UP, MAY_BE_CUT, hear, hear_all
from service.client import Client

ANSWER = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"


def answered(content: bytes, after_s: float) -> socket.socket:
    """A connection whose other end sends something after a while, and hangs up."""
    mine, other = socket.socketpair()

    def send() -> None:
        time.sleep(after_s)
        other.sendall(content)
        other.close()

    threading.Thread(target=send, daemon=True).start()
    return mine


def test_the_slowest_of_many_answers_counts_and_a_hang_up_is_no_status() -> None:
    held = [answered(ANSWER, 0), answered(b"", 0), answered(ANSWER, 0.6), answered(ANSWER, 0)]
    begin = time.monotonic()
    statuses, seconds = hear_all(dict.fromkeys(held, begin))
    assert statuses == [429, HUNG_UP, 429, 429]
    assert 0.6 <= seconds <= time.monotonic() - begin
    assert hear(answered(b"", 0)) == HUNG_UP
    assert hear(answered(ANSWER, 0)) == 429
    assert set(MAY_BE_CUT) < set(ATTACKS)


@pytest.fixture
def table(client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    path = tmp_path_factory.mktemp("table") / "table.json"
    make_table(scale=1.25).save(path)
    return client.upload_table("bench", path)["id"], path.read_bytes()


def test_a_table_that_was_answered_and_is_not_there_is_a_fault(url: str, table: tuple[str, bytes]) -> None:
    table_id, content = table
    assert lost_tables(url, {table_id: content}) == []
    assert len(lost_tables(url, {table_id: b"other"})) == 1
    (lost,) = lost_tables(url, {"0" * 64: content})
    assert "was answered and is a 404" in lost
