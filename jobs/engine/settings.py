"""Settings: conf/assay.yaml, any of them overridden by an ASSAY_... environment variable; Postgres by POSTGRES_..."""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from jobs.engine.errors import ConfigurationError
from jobs.engine.places import is_uri
from jobs.engine.session import PROJECT
from jobs.engine.yaml_files import read_yaml, said_of

SETTINGS_FILE = "conf/assay.yaml"
MOST_DAYS = 36_500  # a hundred years: of some thousand, there would be no day to keep from


class PostgresSettings(BaseSettings):
    """Where gold is published. Without a host, the embedded Postgres is started and used."""

    model_config = SettingsConfigDict(env_prefix="POSTGRES_", env_ignore_empty=True, extra="forbid")

    host: str | None = None
    port: int = Field(5432, ge=1, le=65535)
    db: str = "assay"
    user: str = "assay"
    password: SecretStr | None = None


class Settings(BaseSettings):
    """What a platform engineer may change. Relative paths start at the project's folder."""

    model_config = SettingsConfigDict(env_prefix="ASSAY_", env_ignore_empty=True, extra="forbid")

    landing: str = Field("data/landing", description="raw files: one folder a source; a path or any URI Hadoop knows")
    lakehouse: str = Field("data/lakehouse", description="root of the Delta tables; a path or any URI Hadoop knows")
    output: str = Field("data", description="where processed/ and exports/ are written; a path")
    database: Path = Field(Path("data/postgres"), description="the embedded Postgres keeps its data here; a local path")
    logs: Path = Field(Path("data/logs"), description="what Spark prints goes here; a local path")
    master: str = Field("local[*]", description="Spark master of `assay run`; spark-submit names its own")
    spark: dict[str, str] = Field(default_factory=dict, description="Spark settings over conf/spark-defaults.conf")
    keep_releases: int = Field(10, ge=1, description="`assay rollback` can go back to the newest so many releases")
    keep_days: float = Field(
        7, ge=1, le=MOST_DAYS, description="files that are no longer part of a Delta table stay so long"
    )
    keep_ops_days: int = Field(
        365, ge=1, le=MOST_DAYS, description="row accounts that were replaced, and results of rules, stay so long"
    )
    postgres: PostgresSettings = Field(default_factory=lambda: PostgresSettings(), exclude=True)

    @field_validator("landing", "lakehouse", "output", "database", "logs", mode="before")
    @classmethod
    def _is_a_place(cls, value: object) -> object:
        """Nothing would be the project's own folder, and `~` one of that name."""
        if not str(value).strip() or str(value).startswith("~"):
            raise ValueError("expected a path or URI, written out")
        return value

    @field_validator("spark", mode="before")
    @classmethod
    def _as_spark_writes_them(cls, value: object) -> object:
        """Numbers and truth values as text. Messages name the setting, not its value, which may be a secret."""
        if not isinstance(value, dict):
            raise ValueError("expected settings of Spark, each with its value")
        if wrong := [key for key, one in value.items() if not isinstance(one, str | int | float)]:
            raise ValueError(f"{wrong[0]}: expected one value, as text or a number")
        return {key: str(one).lower() if isinstance(one, bool) else str(one) for key, one in value.items()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_settings_file())

    def model_post_init(self, _context: Any) -> None:
        for name in ("landing", "lakehouse", "output"):
            setattr(self, name, _anchored(getattr(self, name)))
        self.database, self.logs = Path(_anchored(str(self.database))), Path(_anchored(str(self.logs)))


def load_settings() -> Settings:
    """The settings in force.

    Raises ConfigurationError naming the file or variable, the key and what was expected.
    """
    _refuse_unknown_variables()
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError("\n".join(_finding(item, error.title) for item in error.errors())) from None
    except SettingsError as error:  # of the only setting that is no single value
        raise ConfigurationError(
            f"environment variable ASSAY_SPARK: expected a JSON object: {error.__cause__}",
            """example: ASSAY_SPARK='{"spark.driver.memory": "12g"}'""",
        ) from None


def _read_settings_file() -> dict[str, Any]:
    """What the file sets; nothing if there is none."""
    try:
        found = read_yaml(PROJECT / SETTINGS_FILE, SETTINGS_FILE)
    except FileNotFoundError:
        return {}
    if found is not None and not (isinstance(found, dict) and all(isinstance(key, str) for key in found)):
        raise ConfigurationError(f"{SETTINGS_FILE}: expected lines of `setting: value`, e.g. `landing: data/landing`")
    return found or {}


def _anchored(path: str) -> str:
    return path if is_uri(path) or path.startswith("file:") else str(PROJECT / path)


def _refuse_unknown_variables() -> None:
    known = {f"ASSAY_{name.upper()}" for name in Settings.model_fields if name != "postgres"} | {"ASSAY_API_KEYS"}
    unknown = sorted(name for name in os.environ if name.startswith("ASSAY_") and name not in known)
    if unknown:
        raise ConfigurationError(
            f"environment variable {unknown[0]}: no such setting", f"known: {', '.join(sorted(known))}"
        )


def _finding(item: Any, title: str) -> str:
    """One line of a validation error: where, which key, what was expected."""
    key = ".".join(str(part) for part in item["loc"])
    variable = f"{'POSTGRES' if title == 'PostgresSettings' else 'ASSAY'}_{key.split('.')[0].upper()}"
    place = f"environment variable {variable}" if variable in os.environ else f"{SETTINGS_FILE}, {key}"
    return f"{place}: {said_of(item)}"
