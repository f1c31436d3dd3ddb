"""Interactions, workbook or CSV to Postgres: three sheets, the newest delivery of each of which counts."""

from datetime import date, datetime

import pytest

from jobs.engine.errors import ConfigurationError
from jobs.engine.sources import Source, load_sources
from jobs.layers.histories import history
from jobs.planning import plan_sources
from tests.jobs.engine.test_workbooks import workbook
from tests.lab import Lab, with_gold

CUSTOMERS = [["Customer_Id", "Occupation", "Type"], [1, "Nurse", "Private"], [2, None, None], [3, "Baker", "Business"]]
EVENTS = [
    ["Date Start", "Interaction", "Customers"],
    [datetime(2019, 10, 4, 9, 0), "Email", 1],
    ["05/10/2019 10:00", "Call", "1; 2"],
    ["01/11/2019 10:00", "email", "7"],
    ["no date", "Bird", 1],
]
PRODUCTS = [["Date", "Product"], ["10-2019", "Alpha"], [datetime(2019, 10, 1), "Beta"]]
SHEETS = {"Customers": CUSTOMERS, "External interactions": EVENTS, "Products of discussion": PRODUCTS, "Notes": [["x"]]}
COUNTS = "SELECT customer_id, channel, interaction_count FROM gold.customer_channel_interactions ORDER BY 1, 2"


def test_a_workbook_then_newer_sheets_then_the_workbook_again(lab: Lab) -> None:
    lab.land("interactions/all.xlsx", workbook(SHEETS), at=1_700_000_000)
    lab.land("interactions/lacking.xlsx", workbook({"Customers": CUSTOMERS}), at=1_700_000_001)
    first = lab.run("interactions")
    assert first.set_aside == [
        "interactions/lacking.xlsx: it has no sheet called External interactions or Interactions"
    ]
    assert lab.query(COUNTS) == [
        (1, "Call", 1), (1, "Email", 1), (2, "Call", 1), (2, "Email", 0),
        (3, "Call", 0), (3, "Email", 0), (7, "Call", 0), (7, "Email", 1),
    ]  # fmt: skip
    assert [warning for warning in first.warnings if "customer_listed)" in warning]
    assert lab.query("SELECT * FROM gold.product_customer_types WHERE interaction_count > 0 ORDER BY 1, 2") == [
        ("Alpha", "Private", 2), ("Alpha", "Unknown", 1), ("Beta", "Private", 2), ("Beta", "Unknown", 1),
        ("Unknown", "Unknown", 1),
    ]  # fmt: skip
    assert lab.query("SELECT * FROM gold.customer_channel_daily_interactions WHERE customer_id = 1 ORDER BY 3") == [
        (1, "Email", date(2019, 10, 4), 1),
        (1, "Call", date(2019, 10, 5), 1),
    ]
    assert lab.account("silver") == {"interactions/all.xlsx": (9, 8, 1, 0, 0)}
    ids = set(lab.table("silver/interactions/interactions").select("interaction_id").toLocalIterator())

    # One sheet anew, as CSV with other headers: it alone is replaced. The same interaction keeps its id.
    newer = "date_start,event,customers\n04/10/2019 09:00,Email,1\n06/10/2019 09:00,Post,2\n"
    lab.land("interactions/interactions_2.csv", newer, at=1_700_000_100)
    interactions = with_gold("interactions", "customer_channel_interactions")
    lab.run(interactions)
    replaced = [(1, "Email", 1), (1, "Post", 0), (2, "Email", 0), (2, "Post", 1)]
    assert lab.query(COUNTS) == [*replaced, (3, "Email", 0), (3, "Post", 0)]
    assert lab.account("silver") == {
        "interactions/all.xlsx": (9, 5, 0, 0, 4),
        "interactions/interactions_2.csv": (2, 2, 0, 0, 0),
    }
    assert len(ids & set(lab.table("silver/interactions/interactions").select("interaction_id").toLocalIterator())) == 1

    # An older extract that comes late changes nothing; one delivered again is the newest again.
    lab.land("interactions/interactions_1.csv", newer.replace("Post", "Boat"), at=1_600_000_000)
    assert lab.run(interactions).release_id is None
    lab.land("interactions/all again.xlsx", (lab.landing / "interactions/all.xlsx").read_bytes(), at=1_700_000_200)
    lab.run(interactions)
    assert (7, "Email", 1) in lab.query(COUNTS)
    assert lab.account("silver")["interactions/interactions_2.csv"] == (2, 0, 0, 0, 2)


def test_a_full_extract_without_rows_replaces_nothing(lab: Lab) -> None:
    header = "Customer_Id,Occupation,Type\n"
    lab.land("interactions/customers_1.csv", header + "1,Nurse,Private\n", at=1_700_000_000)
    lab.land("interactions/customers_2.csv", header, at=1_700_000_001)
    lab.land("interactions/all.xlsx", workbook({**SHEETS, "Products of discussion": PRODUCTS[:1]}), at=1_700_000_002)
    assert lab.run("interactions", until="bronze").set_aside == [
        "interactions/all.xlsx: sheet Products of discussion: it is empty: it has no row below its header",
        "interactions/customers_2.csv: the file is empty: it has no row below its header",
    ]
    source = load_sources(["interactions"])[0]
    assert history(lab.start(), source, "customers").live() == {(1, "interactions/customers_1.csv")}


def test_a_file_that_was_read_for_a_wrong_raw_table_is_read_anew_when_the_pattern_is_mended(lab: Lab) -> None:
    content = load_sources(["interactions"])[0].model_dump(by_alias=True)
    content["raw"]["customers"]["landing"] = "interactions/*.csv"
    content["raw"]["customers"]["required_columns"] = []
    content["raw"]["products"]["landing"] = "interactions/stock/*.csv"
    lab.land("interactions/customers_1.csv", "Customer_Id,Occupation,Type\n1,Nurse,Private\n", at=1_700_000_000)
    lab.land("interactions/products_1.csv", "Date,Product,Customer_Id\n10-2019,Alpha,7\n", at=1_700_000_100)
    lab.run(Source.model_validate(content), until="silver")
    assert lab.account("silver") == {
        "interactions/customers_1.csv": (1, 0, 0, 0, 1),  # the newest file of a full extract counts
        "interactions/products_1.csv": (1, 1, 0, 0, 0),
    }

    mended = load_sources(["interactions"])[0]
    plan = plan_sources(lab.start(), [mended])
    assert [(file.path, file.why) for file in plan.sources[0].read] == [
        ("interactions/products_1.csv", "for other raw tables than in batch 1")
    ]
    assert lab.run(mended, until="silver").set_aside == []
    for table, column, value in (("customer_records", "customer_id", 1), ("products", "product", "Alpha")):
        assert [row[column] for row in lab.table(f"silver/interactions/{table}").collect()] == [value]
    assert plan_sources(lab.start(), [mended]).sources[0].read == []


def test_a_raw_table_that_has_rows_is_not_left_out_of_the_declaration(lab: Lab) -> None:
    lab.land("interactions/products_1.csv", "Date,Product\n10-2019,Alpha\n", at=1_700_000_000)
    lab.run("interactions", until="bronze")
    content = load_sources(["interactions"])[0].model_dump(by_alias=True)
    content["raw"]["topics"] = content["raw"].pop("products")
    next(table for table in content["tables"].values() if table["raw"] == "products")["raw"] = "topics"
    renamed = Source.model_validate(content)
    wrong = "raw table 'products' is not declared any more, and bronze has rows of it"
    for go_on in (lambda: lab.run(renamed, until="bronze"), lambda: plan_sources(lab.start(), [renamed])):
        with pytest.raises(ConfigurationError, match=wrong):
            go_on()
