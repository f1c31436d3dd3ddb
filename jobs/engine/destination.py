"""The Postgres that the settings name: whether it will do, for publishing and for the lock; found, or started."""

from jobs.engine import postgres
from jobs.engine.database import Database, kept_password
from jobs.engine.embedded import running as running_embedded
from jobs.engine.embedded import start as start_embedded
from jobs.engine.errors import ConfigurationError
from jobs.engine.places import local_path
from jobs.engine.settings import Settings


def given_database(settings: Settings) -> Database | None:
    """The Postgres of POSTGRES_HOST, if that is set. Raises ConfigurationError if its password is missing."""
    given = settings.postgres
    if given.host is None:
        return None
    if given.password is None:
        raise ConfigurationError("POSTGRES_HOST is set and POSTGRES_PASSWORD is not", "set POSTGRES_PASSWORD as well")
    return Database(given.host, given.port, given.db, given.user, given.password.get_secret_value())


def database(settings: Settings) -> Database:
    """The Postgres to publish to: the one of POSTGRES_HOST, else the embedded one, started if it is not running."""
    check_database(settings)
    return given_database(settings) or start_embedded(settings.database)


def check_database(settings: Settings) -> None:
    """Raises ConfigurationError if nothing can be published to the Postgres that the settings name."""
    host = settings.postgres.host
    if host and host.startswith(("/", "@")):
        raise ConfigurationError(
            f"POSTGRES_HOST: Spark publishes over TCP, and {host} is a socket", "for this machine: 127.0.0.1"
        )
    given_database(settings)


def check_lock(settings: Settings) -> None:
    """Raises ConfigurationError if the lakehouse's lock would be one of this machine alone, and others can reach it."""
    if local_path(settings.lakehouse) is None and settings.postgres.host is None:
        raise ConfigurationError(
            f"a lakehouse that is not on this machine ({settings.lakehouse}) is locked through Postgres, and that of "
            "POSTGRES_HOST is the one that all others take",
            "set POSTGRES_HOST, and POSTGRES_DB if it is not assay, the same for all that use the lakehouse",
        )


def running_database(settings: Settings) -> Database | None:
    """The same Postgres, for commands that only look: None if it is the embedded one and that is not running."""
    return given_database(settings) or running_embedded(settings.database)


def reader_passwords(settings: Settings) -> dict[str, str]:
    """The passwords of the reading roles of the embedded Postgres; those of another server are not Assay's to know."""
    if settings.postgres.host is not None:
        return {}
    return {role: kept_password(settings.database / f"{role}.password") for role in postgres.ROLES}
