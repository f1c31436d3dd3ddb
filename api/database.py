"""A few connections to Postgres, read-only. No request waits long for it, whatever state it is in.

Decision: not psycopg_pool. Its clients wait for their whole timeout while the server is down; these are told at once.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api.log import write_event

CONNECTIONS = 8
WAIT_SECONDS = 2.0  # for a free connection
CONNECT_SECONDS = 3
QUERY_SECONDS = 4.0
# After a failed attempt to connect, requests are refused at once for so long: a dead server is not stormed.
REST_SECONDS = 0.5

OPTIONS = f"-c default_transaction_read_only=on -c statement_timeout={QUERY_SECONDS * 1000:.0f}"

_NOT_THERE = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName)

Row = tuple[Any, ...]


# What somebody may be told who has no rights to it, beside the reason.
START_IT = "start the database; the service finds it by itself"
PUBLISH_FIRST = "publish it with `assay run`"
SEE_LOG = "the service's log says more"


class DatabaseUnavailable(Exception):  # noqa: N818 - it is a state, and passes
    """The database does not answer. `reason` and `way_out` are for callers, `detail` for operators."""

    def __init__(self, reason: str, detail: str = "", way_out: str = START_IT) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail or reason
        self.way_out = way_out


class NotPublished(Exception):  # noqa: N818
    """The database answers, but the tables are not there, or not for this role."""


class Database:
    """`find` returns how to connect; it is asked at each new connection, in a thread. Tables are read in a role."""

    def __init__(self, find: Callable[[], str], role: str) -> None:
        self._find = find
        self._role = role
        self._idle: list[AsyncConnection[Row]] = []
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._rest_until = 0.0
        self._last_failure = DatabaseUnavailable("the database has not been asked yet")
        self._is_down = False

    async def rows(self, query: str, parameters: Mapping[str, object]) -> list[Row]:
        """The rows of one statement: one consistent state of the tables. Raises DatabaseUnavailable or NotPublished."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise DatabaseUnavailable("too many requests wait for the database") from None
        try:
            rows = await self._rows(query, parameters)
        except DatabaseUnavailable as unavailable:
            self._report(unavailable)
            raise
        except NotPublished:
            self._report(None)
            raise
        finally:  # of a request that was given up nothing is known
            self._places.release()
        self._report(None)
        return rows

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def _rows(self, query: str, parameters: Mapping[str, object]) -> list[Row]:
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._ask(connection, query, parameters)
            except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.NotSupportedError):
                # The server was restarted, or a table changed its type: older connections are no better.
                await self.close()
        connection = await self._connect()
        try:
            return await self._ask(connection, query, parameters)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise DatabaseUnavailable("the connection to the database was lost", _first_line(error)) from None

    async def _ask(self, connection: AsyncConnection[Row], query: str, parameters: Mapping[str, object]) -> list[Row]:
        severed = False

        def sever() -> None:
            nonlocal severed
            severed = True
            _shut(connection)

        # The server's own timeout ends a slow statement; this ends a wait for a server that says nothing at all.
        timer = asyncio.get_running_loop().call_later(QUERY_SECONDS + 1, sever)
        is_usable = False
        try:
            cursor = await connection.execute(query, parameters, prepare=True)
            found = await cursor.fetchall()
            is_usable = True
            return found
        except _NOT_THERE as error:
            is_usable = True
            raise NotPublished(_first_line(error)) from None
        except psycopg.errors.InsufficientPrivilege as error:
            is_usable = True
            raise _may_not_read(error) from None
        except psycopg.errors.QueryCanceled:
            is_usable = True
            raise DatabaseUnavailable("the database took too long") from None
        except psycopg.OperationalError:
            if severed:
                await self.close()  # what holds up one connection holds up those that wait beside it
                raise DatabaseUnavailable("the database does not answer") from None
            raise
        finally:
            timer.cancel()
            if is_usable and not connection.closed:
                self._idle.append(connection)
            else:
                await connection.close()

    async def _connect(self) -> AsyncConnection[Row]:
        if time.monotonic() < self._rest_until:
            last = self._last_failure
            raise DatabaseUnavailable(last.reason, last.detail, last.way_out)
        try:
            async with asyncio.timeout(CONNECT_SECONDS + 1):
                given = await asyncio.to_thread(self._find)
                options = f"{conninfo_to_dict(given).get('options') or ''} {OPTIONS}".strip()
                conninfo = make_conninfo(
                    given, options=options, connect_timeout=CONNECT_SECONDS, application_name="assay api"
                )
                return await self._in_role(await AsyncConnection.connect(conninfo, autocommit=True))
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject) as error:
            failure = DatabaseUnavailable("nothing has been published yet", _first_line(error), PUBLISH_FIRST)
        except psycopg.errors.InsufficientPrivilege as error:
            failure = _may_not_read(error)
        except (psycopg.Error, OSError) as error:
            failure = DatabaseUnavailable("the database cannot be reached", _first_line(error))
        except DatabaseUnavailable as error:
            failure = error
        self._last_failure, self._rest_until = failure, time.monotonic() + REST_SECONDS
        raise failure

    async def _in_role(self, connection: AsyncConnection[Row]) -> AsyncConnection[Row]:
        """Not by an option of the connection: a server that refuses that says so in its own language, and no code."""
        try:
            await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self._role)))
        except BaseException:
            await connection.close()
            raise
        return connection

    def _report(self, failure: DatabaseUnavailable | None) -> None:
        """Says once that the database is down, and once that it is back."""
        if (failure is not None) != self._is_down:
            self._is_down = failure is not None
            if failure:
                write_event("the database is unavailable", reason=failure.detail)
            else:
                write_event("the database answers")


def _shut(connection: AsyncConnection[Row]) -> None:
    """Break the connection off from outside. Whoever waits for it gets an error; a mere cancellation might hang."""
    with suppress(OSError, psycopg.Error):
        duplicate = socket.socket(fileno=os.dup(connection.fileno()))
        with duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


def _may_not_read(error: psycopg.Error) -> DatabaseUnavailable:
    return DatabaseUnavailable("the service may not read the tables", _first_line(error), SEE_LOG)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
