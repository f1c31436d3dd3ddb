"""What a computed table is computed from."""

from jobs.engine.sources import Source, load_sources
from jobs.layers import recipes
from jobs.layers.refresh import waves


def test_a_table_that_a_rule_refers_to_is_an_input_of_the_derived_table_that_has_the_rule() -> None:
    declared = load_sources(["interactions"])[0].model_dump(by_alias=True)
    listed = {"name": "listed", "references": "customers(customer_id)", "action": "fail", "reason": "not listed"}
    declared["tables"]["interactions"]["rules"] = [listed]
    made = {recipe.table: recipe.inputs for recipe in recipes.silver_recipes(Source.model_validate(declared))}
    interactions, customers = "silver/interactions/interactions", "silver/interactions/customers"
    assert customers in made[interactions].values()
    in_order = list(waves({table: set(inputs.values()) for table, inputs in made.items()}))
    assert [number for number, wave in enumerate(in_order) if customers in wave] < [
        number for number, wave in enumerate(in_order) if interactions in wave
    ]
