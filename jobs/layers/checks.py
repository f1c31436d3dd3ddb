"""Whether what is declared of a source holds together: found out before any data is read."""

from jobs.engine import documents
from jobs.engine.context import Run
from jobs.engine.errors import ConfigurationError
from jobs.engine.sources import SOURCES_FOLDER, Source, source_names
from jobs.layers import bronze, gold, recipes, shapes
from jobs.layers.tables import gold_table


def check(run: Run, source: Source) -> None:
    """Raises ConfigurationError for a table, rule or column that cannot be as it is declared.

    What takes seconds is passed over where the present code has made the tables: then it was looked at.
    """
    _verify_name(run, source)
    bronze.check(run, source)
    recipes.check(source)
    if not gold.is_of_present_code(run, source):
        bronze.check_columns(run, source)
        shapes.check(run, source)
    for document in source.documents.values():
        documents.folder_of(run.settings.output, document)


def _verify_name(run: Run, source: Source) -> None:
    """Raises ConfigurationError if a gold table of its was computed for a source that is not declared any more.

    Under another name, a source starts without its former rows, and would take them from those who read them.
    """
    states, declared = run.ledger.table_states(), source_names()
    for path in sorted(states):
        layer, other, name = path.split("/")
        if layer != "gold" or other in declared or name not in source.gold_tables or not run.lake.exists(path):
            continue
        own = gold_table(source, name)
        if own not in states or not run.lake.exists(own):
            raise ConfigurationError(
                f"{SOURCES_FOLDER / source.name}.yaml: {name} was published from the source {other!r}, which is not "
                "declared any more",
                f"call the source {other!r} again, whose rows the lakehouse has; or, if it is gone for good and "
                f"{source.name!r} takes its place, remove the folder {path} of the lakehouse",
            )
