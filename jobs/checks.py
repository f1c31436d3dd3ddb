"""Whether what is declared of a source holds together: found out before any data is read."""

from jobs import bronze, gold, silver
from jobs.engine import documents
from jobs.engine.context import Run
from jobs.engine.sources import Source


def check(run: Run, source: Source) -> None:
    """Raises ConfigurationError for a table, rule or column that cannot be as it is declared.

    What takes seconds is passed over where the present code has made the tables: then it was looked at.
    """
    bronze.check(run, source)
    gold.check(source)
    if not gold.is_of_present_code(run, source):
        bronze.check_columns(run, source)
        silver.check(run, source)
    for document in source.documents.values():
        documents.folder_of(run.settings.output, document)
