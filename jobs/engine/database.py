"""Which Postgres, and how to reach it."""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlencode

from psycopg.conninfo import make_conninfo

_WITHOUT_TLS = {"sslmode": "disable", "gssencmode": "disable", "channel_binding": "disable"}
# What a user may ask for of the connection, by the variables of Postgres's own clients. The driver does not know them.
_JDBC_TLS = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}


@dataclass(frozen=True)
class Database:
    """One Postgres database over TCP. The password never shows in a repr."""

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)
    jdbc_options: str = ""
    """What Spark's connections set as they begin, as `-c name=value`."""
    is_own: bool = False
    """Whether Assay started it, on this machine and without TLS: what the shell says of servers is about others."""

    @property
    def jdbc_url(self) -> str:
        """How Spark connects: with TLS as all other connections."""
        given = {"options": self.jdbc_options, **({"sslmode": "disable"} if self.is_own else _tls())}
        parameters = "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items() if value)
        return f"jdbc:postgresql://{self._address}/{quote(self.name)}{'?' if parameters else ''}{parameters}"

    @property
    def _address(self) -> str:
        """Host and port, as URLs have them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, *, with_password: bool = False) -> str:
        """A connection string for any client."""
        password = f":{quote(self.password, safe='')}" if with_password else ""
        return f"postgresql://{quote(self.user)}{password}@{self._address}/{quote(self.name)}"

    def url_with_password_file(self, file: Path) -> str:
        """One for psql and what else is made with libpq: it says where the password is, which is written to `file`.

        Everybody on a machine can read what its processes were started with.
        """
        line = f"*:*:*:{self.user}:{self.password}\n"
        if not file.exists() or file.read_text() != line:  # another psql may be reading it
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
                stream.write(line)
        # Without an empty one, the password of PGPASSWORD would go before the file's, perhaps that of another server.
        own = {"hostaddr": self.host, **_WITHOUT_TLS} if self.is_own else {}
        return f"{self.url()}?{urlencode({'password': '', 'passfile': str(file), **own}, quote_via=quote)}"

    def as_user(self, user: str, password: str) -> "Database":
        """The same database for another user."""
        return replace(self, user=user, password=password)

    def conninfo(self) -> str:
        """What psycopg.connect takes."""
        return make_conninfo(
            host=self.host,
            port=self.port,
            dbname=self.name,
            user=self.user,
            password=self.password,
            connect_timeout=10,
            # Of a database that does not say what its texts are written in, psycopg would give bytes.
            client_encoding="utf8",
            application_name="assay",
            # Not the one of PGHOSTADDR, where Java's driver would not go.
            hostaddr=self.host if self.is_own else "",
            **(_WITHOUT_TLS if self.is_own else {}),
        )


def _tls() -> dict[str, str]:
    """What the driver is to be told to do as libpq does."""
    tls = {name: value for name, variable in _JDBC_TLS.items() if (value := os.environ.get(variable))}
    if tls.get("sslrootcert") == "system":
        factory = "org.postgresql.ssl.DefaultJavaSSLFactory"
        return {**tls, "sslmode": tls.get("sslmode", "verify-full"), "sslrootcert": "", "sslfactory": factory}
    if tls.get("sslmode") == "require" and "sslrootcert" in tls:  # with which libpq verifies, too
        tls["sslmode"] = "verify-ca"
    return tls


def kept_password(file: Path) -> str:
    """The password in `file`, which only its owner may read; a new one at the first call."""
    if file.exists() and not file.stat().st_size:
        file.unlink()  # of an earlier Assay that was interrupted here
    if not file.exists():
        # Whole or not at all: half a password, after a crash or on a full disk, would be taken for one.
        new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(secrets.token_urlsafe(24))
                stream.flush()
                os.fsync(stream.fileno())
            with suppress(FileExistsError):  # another process was first
                os.link(new, file)
        finally:
            new.unlink(missing_ok=True)
    return read_password(file)


def read_password(file: Path) -> str:
    """The password that `kept_password` has put there, perhaps with the line end that an editor adds."""
    return file.read_text().strip()


def first_line(error: Exception) -> str:
    """What Postgres says first; the rest is where in the statement."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
