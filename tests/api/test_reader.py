"""The interaction endpoints over real HTTP and a real Postgres: shapes, filters, errors, and what caches rely on."""

import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from api.app import READY_FOR_SECONDS
from jobs.engine.database import Database
from scripts.proof.world import postgres_variables
from tests.api.gold import TABLES, create_tables, execute, new_database, publish, publish_rows
from tests.api.service import Service

INTERACTIONS = "/api/v1/interactions"
ID_ERROR = {
    "error": "customer_id is not a positive integer",
    "hint": "write a whole number above 0 in decimal digits, such as 1042",
}


@pytest.mark.parametrize(
    ("customer_id", "interactions"),
    [
        (1, {"Bird": 0, "Call": 0, "Email": 1}),
        (2, {"Bird": 0, "Call": 1, "Email": 3}),
        (3, {"Bird": 0, "Call": 0, "Email": 0}),
        (9223372036854775807, {"Bird": 0, "Call": 2, "Email": 0}),
    ],
)
def test_a_customer_has_every_known_channel_zeros_included_and_nothing_else_is_said(
    service: Service, customer_id: int, interactions: dict[str, int]
) -> None:
    answer = service.get(f"{INTERACTIONS}/{customer_id}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"data": {"customer_id": customer_id, "interactions": interactions}}
    assert list(answer.json()["data"]["interactions"]) == ["Bird", "Call", "Email"]


@pytest.mark.parametrize(
    ("query", "interactions"),
    [
        ("start_date=2019-10-04&end_date=2019-10-31", {"Bird": 0, "Call": 0, "Email": 3}),
        ("start_date=2019-10-05&end_date=2019-10-31", {"Bird": 0, "Call": 0, "Email": 2}),
        ("start_date=2019-10-04&end_date=2019-10-30", {"Bird": 0, "Call": 0, "Email": 1}),
        ("start_date=2019-10-31&end_date=2019-10-31", {"Bird": 0, "Call": 0, "Email": 2}),
        ("start_date=2019-10-31", {"Bird": 0, "Call": 1, "Email": 2}),
        ("end_date=2019-10-31", {"Bird": 0, "Call": 0, "Email": 3}),
        ("end_date=2000-01-01", {"Bird": 0, "Call": 0, "Email": 0}),
        ("start_date=0001-01-01&end_date=9999-12-31", {"Bird": 0, "Call": 1, "Email": 3}),
    ],
)
def test_a_period_counts_both_its_days_and_either_may_be_left_out(
    service: Service, query: str, interactions: dict[str, int]
) -> None:
    answer = service.get(f"{INTERACTIONS}/2?{query}")
    assert (answer.status_code, answer.json()) == (200, {"data": {"customer_id": 2, "interactions": interactions}})


def test_topics_have_every_channel_and_the_products_that_occurred(service: Service) -> None:
    answer = service.get(f"{INTERACTIONS}/2/topics")
    topics = {"Bird": {}, "Call": {"Unknown": 1}, "Email": {"Loans": 3, "Savings": 3}}
    assert (answer.status_code, answer.json()) == (200, {"data": {"customer_id": 2, "topics": topics}})
    assert service.get(f"{INTERACTIONS}/3/topics").json()["data"]["topics"] == {"Bird": {}, "Call": {}, "Email": {}}


def test_customer_types_have_every_product_and_type_zeros_included(service: Service) -> None:
    answer = service.get("/api/v1/products/customer-types")
    products = {"Loans": {"Business": 1, "Private": 3}, "Savings": {"Business": 0, "Private": 3}}
    assert (answer.status_code, answer.json()) == (200, {"data": {"products": products}})


@pytest.mark.parametrize("tail", ["", "/topics", "?start_date=2019-01-01"])
@pytest.mark.parametrize("customer_id", ["4", "9223372036854775808", "9" * 5_000])
def test_an_unknown_customer_is_404_and_so_is_a_number_that_no_customer_can_have(
    service: Service, customer_id: str, tail: str
) -> None:
    answer = service.get(f"{INTERACTIONS}/{customer_id}{tail}")
    assert (answer.status_code, answer.json()["error"]) == (404, "there is no such customer")


@pytest.mark.parametrize("tail", ["", "/topics"])
@pytest.mark.parametrize(
    "customer_id",
    str.split("0 -1 +1 1.0 1e3 abc 1_0 0x1 %20 1%20 %D9%A1 %EF%BC%91 1%0A %00 NaN 1;2"),
)
def test_an_id_that_is_no_positive_integer_is_400(service: Service, customer_id: str, tail: str) -> None:
    answer = service.get(f"{INTERACTIONS}/{customer_id}{tail}")
    assert (answer.status_code, answer.json()) == (400, ID_ERROR)


def test_leading_zeros_do_not_make_another_number(service: Service) -> None:
    assert service.get(f"{INTERACTIONS}/0001").json() == service.get(f"{INTERACTIONS}/1").json()


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("1?start_date=", "start_date is not a date of the calendar"),
        ("1?start_date=04/10/2019", "start_date is not a date of the calendar"),
        ("1?start_date=20191004", "start_date is not a date of the calendar"),
        ("1?start_date=2019-10-4", "start_date is not a date of the calendar"),
        ("1?start_date=2019-W40-5", "start_date is not a date of the calendar"),
        ("1?start_date=2019-10-04T00:00", "start_date is not a date of the calendar"),
        ("1?start_date=0000-01-01", "start_date is not a date of the calendar"),
        ("1?end_date=2019-02-29", "end_date is not a date of the calendar"),
        ("1?end_date=%D9%A2019-10-04", "end_date is not a date of the calendar"),
        ("1?end_date=2019-10-04%00", "end_date is not a date of the calendar"),
        ("1?start_date=2019-10-05&end_date=2019-10-04", "start_date is after end_date"),
        ("1?start_date=2019-10-05&start_date=2019-10-06", "a query parameter is given twice"),
        ("1?startdate=2019-10-05", "there is an unknown query parameter"),
        ("1/topics?start_date=2019-10-05", "there is an unknown query parameter"),
        ("4?start_date=never", "start_date is not a date of the calendar"),
    ],
)
def test_a_filter_that_is_malformed_reversed_or_unknown_is_400(service: Service, path: str, error: str) -> None:
    answer = service.get(f"{INTERACTIONS}/{path}")
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert answer.json()["hint"]


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/", 405, "this path does not take this method"),
        ("GET", "/member", 405, "this path does not take this method"),
        ("POST", f"{INTERACTIONS}/1", 405, "this path does not take this method"),
        ("OPTIONS", f"{INTERACTIONS}/1", 405, "this path does not take this method"),
        ("GET", "/nothing", 404, "there is nothing at this path"),
        ("GET", f"{INTERACTIONS}/", 404, "there is nothing at this path"),
        ("GET", f"{INTERACTIONS}/1/", 404, "there is nothing at this path"),
        ("GET", f"{INTERACTIONS}/1%2F2", 404, "there is nothing at this path"),
        ("GET", "/redoc", 404, "there is nothing at this path"),
    ],
)
def test_other_paths_and_methods_are_refused_in_json(
    service: Service, method: str, path: str, status: int, error: str
) -> None:
    answer = service.client.request(method, path)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("path", [f"{INTERACTIONS}/1", f"{INTERACTIONS}/4", "/health", "/ready", "/openapi.json"])
def test_head_is_answered_like_get_without_a_body(service: Service, path: str) -> None:
    head, get = service.client.head(path), service.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.fixture(scope="module")
def own(postgres: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Database]]:
    """A service whose database the tests change."""
    database = new_database(postgres, "api_changes")
    publish_rows(database)
    with Service(tmp_path_factory.mktemp("own"), **postgres_variables(database)) as service:
        yield service, database
    execute(postgres, f'DROP DATABASE "{database.name}" WITH (FORCE)')


PATHS = [
    f"{INTERACTIONS}/1",
    f"{INTERACTIONS}/2",
    f"{INTERACTIONS}/1?start_date=2019-10-04",
    f"{INTERACTIONS}/1?end_date=2019-10-04",
    f"{INTERACTIONS}/1/topics",
    "/api/v1/products/customer-types",
]


def test_an_etag_stands_for_one_release_and_one_question(own: tuple[Service, Database]) -> None:
    service, database = own
    first = {path: service.get(path) for path in PATHS}
    tags = {path: answer.headers["etag"] for path, answer in first.items()}
    assert len(set(tags.values())) == len(PATHS)
    for path in PATHS:
        again = service.get(path, If_None_Match=tags[path])
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tags[path])
        assert again.headers["cache-control"] == first[path].headers["cache-control"]
    assert first[PATHS[0]].headers["cache-control"] == "private, max-age=0, must-revalidate"

    publish(database)
    for path in PATHS:
        fresh = service.get(path, If_None_Match=tags[path])
        assert (fresh.status_code, fresh.json()) == (200, first[path].json())
        assert fresh.headers["etag"] != tags[path]


@pytest.mark.parametrize("header", ['W/{tag}, "other"', '"other",{tag}', "*"])
def test_if_none_match_may_be_weak_a_list_or_a_star(own: tuple[Service, Database], header: str) -> None:
    service, _ = own
    tag = service.get(PATHS[0]).headers["etag"]
    assert service.get(PATHS[0], If_None_Match=header.format(tag=tag)).status_code == 304
    assert service.get(f"{INTERACTIONS}/4", If_None_Match=header.format(tag=tag)).status_code == 404


def test_last_modified_is_when_the_release_was_published(own: tuple[Service, Database]) -> None:
    service, database = own
    ((published_at,),) = execute(database, "SELECT max(published_at) FROM ops.releases")
    answer = service.get(PATHS[0])
    assert parsedate_to_datetime(answer.headers["last-modified"]) == published_at.replace(microsecond=0)


def test_an_answer_and_its_release_are_of_one_moment_while_releases_are_made(own: tuple[Service, Database]) -> None:
    """Each release sets every count to its own number, in one transaction: an answer that mixes two would show it."""
    service, database = own
    tables = ("customer_channel_interactions", "customer_channel_daily_interactions", "customer_channel_topics")
    number = "(SELECT max(release_id) + 1 FROM ops.releases)"
    changes = ";".join(f"UPDATE gold.{table} SET interaction_count = {number}" for table in tables)
    publish(database, changes)
    is_over = threading.Event()

    def make_releases() -> None:
        while not is_over.is_set():
            publish(database, changes)

    maker = threading.Thread(target=make_releases)
    maker.start()
    try:
        seen = set()
        for _ in range(150):
            for path in (f"{INTERACTIONS}/2", f"{INTERACTIONS}/2?start_date=2019-11-01", f"{INTERACTIONS}/2/topics"):
                answer = service.get(path)
                release = int(answer.headers["etag"].strip('"').partition("-")[0])
                data = answer.json()["data"]
                by_channel = data["topics"].values() if "topics" in data else [data["interactions"]]
                assert {count for counts in by_channel for count in counts.values()} - {0} == {release}, path
                seen.add(release)
    finally:
        is_over.set()
        maker.join()
    assert len(seen) > 10, "too few releases were made for the test to show anything"


def test_every_answer_says_how_it_may_be_used(service: Service) -> None:
    for path in (PATHS[0], f"{INTERACTIONS}/x", "/nothing", "/health", "/docs"):
        headers = service.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert len(headers["x-request-id"]) == 16
        assert "server" not in headers
    assert service.get(f"{INTERACTIONS}/x").headers["cache-control"] == "no-store"


def test_before_the_first_release_the_reader_says_that_there_is_none_and_afterwards_it_answers(
    database: Database, tmp_path: Path
) -> None:
    execute(database, f"ALTER DATABASE \"{database.name}\" SET timezone = 'Europe/Berlin'")
    with Service(tmp_path, **postgres_variables(database)) as service:
        for prepare in (lambda: None, lambda: create_tables(database)):
            prepare()
            answer = service.get(PATHS[0])
            assert (answer.status_code, answer.json()["error"]) == (503, "the interactions have not been published yet")
            assert answer.headers["retry-after"]
        assert service.get("/health").json() == {"data": {"status": "ok"}}
        assert service.get("/ready").status_code == 503
        publish(database, "DROP TABLE gold.customer_channel_topics")
        assert service.get(PATHS[0]).status_code == 404
        assert service.get(f"{INTERACTIONS}/1/topics").status_code == 503
        execute(database, "DROP SCHEMA gold, ops CASCADE")
        publish_rows(database)
        answer = service.get(PATHS[0])
        assert (answer.status_code, answer.headers["last-modified"][-3:]) == (200, "GMT")


def test_what_the_newest_release_does_not_have_is_not_served(database: Database, tmp_path: Path) -> None:
    """After another lakehouse took over, the tables show rows of an earlier release until it publishes them as well."""
    publish_rows(database)
    with Service(tmp_path, **postgres_variables(database)) as service:
        for missing in TABLES:
            publish(database, tables=[table for table in TABLES if table != missing])
            served = {path for path in PATHS if service.get(path).status_code == 200}
            needed = {
                "gold.customer_channel_interactions": set(PATHS[:5]),
                "gold.customer_channel_topics": {PATHS[4]},
                "gold.product_customer_types": {PATHS[5]},
                "gold.customer_channel_daily_interactions": set(PATHS[2:4]),
            }[missing]
            assert served == set(PATHS) - needed, missing
            time.sleep(READY_FOR_SECONDS)
            assert service.get("/ready").status_code == 503, missing
        publish(database)
        assert {service.get(path).status_code for path in PATHS} == {200}


def test_ready_names_the_release(service: Service) -> None:
    ready = service.get("/ready").json()["data"]
    assert (ready["status"], ready["release"]["release_id"]) == ("ok", 1)
    assert ready["release"]["published_at"].endswith("Z")


def test_ready_says_what_may_not_be_read_and_what_is_missing(database: Database, tmp_path: Path) -> None:
    publish_rows(database)
    execute(database, "CREATE ROLE website LOGIN PASSWORD 'website'; GRANT analyst TO website")
    try:
        with Service(tmp_path, **postgres_variables(database.as_user("website", "website"))) as service:
            assert service.get("/ready").status_code == 200
            for change, says in (
                ("REVOKE SELECT ON gold.product_customer_types FROM analyst", "may not read the tables"),
                ("DROP TABLE gold.product_customer_types", "product_customer_types"),
            ):
                execute(database, change)
                time.sleep(READY_FOR_SECONDS)
                answer = service.get("/ready")
                assert answer.status_code == 503
                assert says in answer.json()["error"]
    finally:
        execute(database, "DROP ROLE website")
