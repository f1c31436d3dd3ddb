"""The HTTP service: settings in, `api` started. What it may read is what analysts may read."""

from collections.abc import Callable

from api import parts
from api.config import ServiceConfig
from api.database import PUBLISH_FIRST, DatabaseUnavailable
from api.errors import CannotStartError, WrongConfigurationError
from api.keys import VARIABLE, parse_keys
from api.server import serve as serve_http
from jobs.engine import embedded
from jobs.engine.database import read_password
from jobs.engine.destination import given_database
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.landing import is_expected
from jobs.engine.places import local_path
from jobs.engine.settings import Settings
from jobs.engine.sources import SOURCES_FOLDER, load_sources, source_names

ROLE = ServiceConfig.role
MEMBERS = "members"  # the source's folder below the landing folder


def serve(settings: Settings, host: str, port: int, keys: str | None, rate_limit: str, roll_seconds: float) -> None:
    """Serves until it is told to stop, and says on stdout where. `keys` is the text of ASSAY_API_KEYS.

    Raises ConfigurationError, or AssayError if the surroundings are at fault.
    """
    landing = local_path(settings.landing)
    if landing is None:
        message = f"entries can only be received into a local landing folder, not {settings.landing}"
        raise ConfigurationError(message, "set ASSAY_LANDING to a folder of this machine that the runs read as well")
    _verify_is_read()
    find_database = database_finder(settings)
    try:
        config = ServiceConfig(
            landing=landing / MEMBERS,
            find_database=find_database,
            host=host,
            port=port,
            keys=parse_keys(keys or ""),
            rate_limit=rate_limit,
            roll_seconds=roll_seconds,
        )
        serve_http(config, lambda address: print(announcement(config, address), flush=True))
    except WrongConfigurationError as error:
        raise ConfigurationError(error.message, error.hint) from None
    except CannotStartError as error:
        raise AssayError(error.message, error.hint) from None


def _verify_is_read() -> None:
    """Raises ConfigurationError if no run would read what is received."""
    received = f"{MEMBERS}/{parts.PREFIX}1{parts.SUFFIX}"
    if MEMBERS not in source_names():
        raise ConfigurationError(
            f"entries are received into files such as {received}, and there is no {SOURCES_FOLDER / MEMBERS}.yaml"
        )
    try:
        patterns = load_sources([MEMBERS])[0].patterns
    except ConfigurationError:  # runs say it; entries are received all the same
        return
    if not is_expected(received, patterns):
        raise ConfigurationError(
            f"{SOURCES_FOLDER / MEMBERS}.yaml: entries are received into files such as {received}, and only "
            f"{', '.join(patterns)} would be read",
            f"let a pattern match them: {MEMBERS}/*{parts.SUFFIX}",
        )


def database_finder(settings: Settings) -> Callable[[], str]:
    """How to connect: as the user of POSTGRES_HOST, else as the embedded analyst."""
    given = given_database(settings)
    if given:
        return given.conninfo

    def find() -> str:
        try:
            database = embedded.running(settings.database)
        except AssayError as error:
            raise DatabaseUnavailable("the embedded Postgres cannot be used", str(error)) from None
        if database is None:
            raise DatabaseUnavailable("the embedded Postgres is not running", "it is not running: assay db start")
        # Publishing makes the role and its password, so without one nothing has been published.
        password = settings.database / f"{ROLE}.password"
        if not password.exists():
            raise DatabaseUnavailable("nothing has been published yet", "run `assay run` first", PUBLISH_FIRST)
        return database.as_user(ROLE, read_password(password)).conninfo()

    return find


def announcement(config: ServiceConfig, address: str) -> str:
    """What a user sees once requests are answered."""
    needed = (
        f"required ({len(config.keys)} in {VARIABLE})" if config.keys else "not required: only this machine is served"
    )
    header = ' -H "Authorization: Bearer $KEY"' if config.keys else ""
    entry = '{id="ada6ee1abc22511c"|created_at="2023-06-27"|sex=1|age=48}'
    return "\n".join(
        [
            f"assay  serve  {address}  (its description: {address}/docs)",
            f"landing       {config.landing}, for the run after at most {config.roll_seconds:g} s",
            f"keys          {needed}",
            f"try           curl{header} {address}/member -d '{entry}'",
            f"              curl{header} {address}/api/v1/interactions/1",
        ]
    )
