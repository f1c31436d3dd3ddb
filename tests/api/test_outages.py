"""The database may be away, stuck, restarted, or somewhere else: requests are answered all the same."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api import database as of_service
from api.database import OPTIONS, QUERY_SECONDS
from jobs.engine import embedded
from jobs.engine.database import Database, kept_password
from scripts.proof.world import postgres_variables
from tests.api.gold import execute, new_database, publish_rows
from tests.api.service import Service

PATH = "/api/v1/interactions/1"
EXPECTED = {"data": {"customer_id": 1, "interactions": {"Bird": 0, "Call": 0, "Email": 1}}}


def await_status(service: Service, status: int, seconds: float = 20) -> None:
    give_up_at = time.monotonic() + seconds
    while (found := service.get(PATH).status_code) != status:
        assert time.monotonic() < give_up_at, f"still {found}"
        time.sleep(0.1)


def events(service: Service) -> list[str]:
    return [line["event"] for line in service.log() if "event" in line]


def test_the_service_finds_the_embedded_database_whenever_it_comes_up_and_wherever_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    with Service(tmp_path) as service:
        for path in (PATH, "/ready"):
            answer = service.get(path)
            assert answer.status_code == 503
            assert "the embedded Postgres is not running" in answer.json()["error"]
            assert answer.headers["retry-after"]
        assert service.get("/health").status_code == 200
        assert service.post("{a=1}").status_code == 202

        database = embedded.start(folder)
        try:
            time.sleep(0.6)
            assert "nothing has been published yet" in service.get(PATH).json()["error"]
            (elsewhere := tmp_path / "elsewhere").mkdir()
            with Service(elsewhere, **postgres_variables(database)) as other:  # a server without the role
                assert "nothing has been published yet" in other.get(PATH).json()["error"]
                assert other.get("/ready").json()["hint"] == "publish it with `assay run`"
            publish_rows(database)
            password = kept_password(folder / "analyst.password")
            execute(database, f"ALTER ROLE analyst LOGIN PASSWORD '{password}'")
            await_status(service, 200)
            assert service.get(PATH).json() == EXPECTED

            embedded.stop(folder)
            assert service.get(PATH).status_code == 503
            with socket.create_server(("127.0.0.1", database.port)):
                assert embedded.start(folder).port != database.port
            await_status(service, 200)
        finally:
            embedded.stop(folder)
        assert events(service).count("the database is unavailable") == 2
        assert events(service).count("the database answers") == 2
        assert password not in service.stderr


@pytest.fixture(scope="module")
def stuck(postgres: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Database]]:
    database = new_database(postgres, "api_stuck")
    publish_rows(database)
    with Service(tmp_path_factory.mktemp("stuck"), **postgres_variables(database)) as service:
        yield service, database
    execute(postgres, f'DROP DATABASE "{database.name}" WITH (FORCE)')


def test_after_its_connections_were_cut_off_the_next_request_is_answered(stuck: tuple[Service, Database]) -> None:
    service, database = stuck
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status_code for answer in pool.map(service.get, [PATH] * 50)} == {200}
    execute(database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'assay api'")
    assert service.get(PATH).json() == EXPECTED


def test_after_a_table_was_made_anew_with_another_type_the_next_request_is_answered(
    stuck: tuple[Service, Database],
) -> None:
    service, database = stuck
    assert service.get(PATH).status_code == 200
    execute(database, "ALTER TABLE gold.customer_channel_interactions ALTER interaction_count TYPE integer")
    assert service.get(PATH).json() == EXPECTED


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Somebody holds a lock that keeps all readers out."""
    with psycopg.connect(database.conninfo()) as connection:
        connection.execute("LOCK gold.customer_channel_interactions IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def frozen(database: Database) -> Iterator[None]:
    """The server's processes for the service's connections say nothing any more."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'assay api' AND datname = current_database()"
    processes = [pid for (pid,) in execute(database, query)]
    assert processes
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("trouble", [locked, frozen])
def test_a_stuck_database_hangs_no_request(stuck: tuple[Service, Database], trouble: object) -> None:
    service, database = stuck
    assert service.get(PATH).status_code == 200
    with trouble(database), ThreadPoolExecutor(24) as pool:  # type: ignore[operator]
        began = time.monotonic()
        waiting = [pool.submit(service.get, PATH) for _ in range(20)]
        time.sleep(0.3)
        assert service.get("/health").status_code == 200
        assert service.post("{a=1}").status_code == 202
        assert time.monotonic() - began < 3
        if trouble is frozen:  # the other requests get connections of their own
            assert {answer.result().status_code for answer in waiting} <= {200, 503}
            assert 503 in {answer.result().status_code for answer in waiting}
        else:
            assert {answer.result().status_code for answer in waiting} == {503}
        assert time.monotonic() - began < 12
    await_status(service, 200)


def test_when_one_connection_is_dead_those_beside_it_are_not_tried(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asked() -> tuple[int, list[Any]]:
        service = of_service.Database(database.conninfo, database.user)
        await asyncio.gather(*[service.rows("SELECT pg_sleep(0.1)", {}) for _ in range(4)])
        assert len(service._idle) == 4
        monkeypatch.setattr(of_service, "QUERY_SECONDS", -0.8)  # so that it is cut off after 0.2 s
        with pytest.raises(of_service.DatabaseUnavailable, match="the database does not answer"):
            await service.rows("SELECT pg_sleep(2)", {})
        monkeypatch.undo()
        left = len(service._idle)
        rows = await service.rows("SELECT 1", {})
        await service.close()
        return left, rows

    assert asyncio.run(asked()) == (0, [(1,)])


def test_a_user_who_may_not_be_an_analyst_is_told_to_the_operator_and_not_to_callers(
    database: Database, tmp_path: Path
) -> None:
    publish_rows(database)
    execute(database, "CREATE ROLE stranger LOGIN PASSWORD 'stranger-password'")
    try:
        given = postgres_variables(database.as_user("stranger", "stranger-password"))
        with Service(tmp_path, **given) as service:
            answer = service.get(PATH)
            assert answer.status_code == 503
            assert "the service may not read the tables" in answer.text
            assert "stranger" not in answer.text
            assert service.get("/ready").json()["hint"] == "the service's log says more"
            assert 'permission denied to set role \\"analyst\\"' in service.stderr
            assert "stranger-password" not in service.stderr
    finally:
        execute(database, "DROP ROLE stranger")


def test_the_service_asks_read_only_and_not_for_long(published: Database) -> None:
    async def asked() -> list[tuple[str, ...]]:
        database = of_service.Database(published.conninfo, "analyst")
        try:
            return await database.rows(
                "SELECT current_user, current_setting('default_transaction_read_only'), "
                "current_setting('statement_timeout')",
                {},
            )
        finally:
            await database.close()

    assert asyncio.run(asked()) == [("analyst", "on", f"{QUERY_SECONDS:.0f}s")]


def test_of_a_request_that_was_given_up_the_log_does_not_say_that_the_database_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def asked() -> None:
        database = of_service.Database(lambda: "", "analyst")
        states = of_service.DatabaseUnavailable("down"), asyncio.CancelledError(), of_service.NotPublished("none")
        for raised in states:

            async def rows(*_: object, raised: BaseException = raised) -> None:
                raise raised

            monkeypatch.setattr(database, "_rows", rows)
            with pytest.raises(type(raised)):
                await database.rows("", {})
            said.append("the database answers" in capsys.readouterr().err)

    said = list[bool]()
    asyncio.run(asked())
    assert said == [False, False, True]


def test_the_service_cannot_change_anything_whoever_connects(published: Database) -> None:
    """As it connects, with a superuser's password."""
    with psycopg.connect(published.conninfo(), options=OPTIONS, autocommit=True) as connection:
        connection.execute("SET ROLE analyst")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TEMP TABLE t (a int)")
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM gold.customer_channel_interactions")


def test_a_fault_is_500_in_json_and_the_log_says_what_and_where_but_not_of_whom(
    stuck: tuple[Service, Database],
) -> None:
    service, database = stuck
    execute(database, "ALTER TABLE gold.customer_channel_daily_interactions ALTER interaction_count TYPE text")
    answer = service.get(f"{PATH}?start_date=2019-10-04")
    assert (answer.status_code, answer.json()["error"]) == (500, "the service is at fault")
    fault, _ = service.await_log(answer.headers["x-request-id"])
    assert (fault["event"], fault["error"].partition(" at ")[0]) == ("fault", "UndefinedFunction")
    assert service.get(PATH).json() == EXPECTED
