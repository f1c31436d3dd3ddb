"""Services that most tests share: one for this machine only, one with API keys. Both read the rows of gold.py."""

import uuid
from collections.abc import Iterator

import pytest

from jobs.engine.database import Database
from scripts.proof.world import postgres_variables
from tests.api.gold import execute, new_database, publish_rows
from tests.api.service import Service

READ, WRITE, BOTH = "r" * 20, "w" * 20, "b" * 20
KEYS = f"read:{READ}, write:{WRITE},{BOTH}"


@pytest.fixture(scope="session")
def published(postgres: Database) -> Iterator[Database]:
    database = new_database(postgres, f"api_{uuid.uuid4().hex[:8]}")
    publish_rows(database)
    yield database
    execute(postgres, f'DROP DATABASE "{database.name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def service(published: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service"), **postgres_variables(published)) as started:
        yield started


@pytest.fixture(scope="session")
def service_with_keys(published: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    place = tmp_path_factory.mktemp("keys")
    with Service(place, "--host", "0.0.0.0", ASSAY_API_KEYS=KEYS, **postgres_variables(published)) as started:
        yield started
