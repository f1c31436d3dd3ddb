"""All rules of some sources, and how many rows violated each the last time that it was applied."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jobs.engine import destination, postgres
from jobs.engine.errors import AssayError
from jobs.engine.listing import line
from jobs.engine.settings import Settings
from jobs.engine.sources import Source


@dataclass(frozen=True)
class RuleLine:
    """One rule of one silver table. `rate` is the newest share of violating rows, 0 to 1; None if it is not known."""

    source: str
    table: str
    name: str
    action: str
    max_rate: float | None
    rate: float | None
    text: str
    reason: str


@dataclass
class Rulebook:
    """All rules; `unknown` says why the rates are not known, if they are not."""

    rules: list[RuleLine]
    unknown: str | None = None

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def as_text(self) -> str:
        lines, place = [], ""
        width = max((len(rule.name) for rule in self.rules), default=0)
        for rule in self.rules:
            if place != f"{rule.source}.{rule.table}":
                lines += [""] * bool(place) + [place := f"{rule.source}.{rule.table}"]
            share = "-" if rule.rate is None else f"{rule.rate:.2%}"
            limit = "" if rule.max_rate is None else f" (at most {rule.max_rate:.2%})"
            lines.append(f"  {rule.name:<{width}}  {rule.action:<10}  {share:>7}{limit}  {' '.join(rule.text.split())}")
            lines.append(f"  {'':<{width}}  {rule.reason}")
        rates = f"rates are not known: {self.unknown}" if self.unknown else "rates are those of the newest run of each"
        held = next((rule.source for rule in self.rules if rule.action == "quarantine" and rule.rate), None)
        action = f"assay quarantine --source {held}      what is held back" if held else "assay plan"
        return "\n".join([*lines, "", line("rules", f"{len(self.rules):,}; {rates}"), line("next", action)])


def rules_of(settings: Settings, sources: Sequence[Source]) -> Rulebook:
    """The rules as they are declared. Needs no Spark, and starts no Postgres."""
    rates, unknown = _rates(settings)
    rules = [
        RuleLine(
            source.name, table, rule.name, rule.action, rule.max_rate, rates.get((source.name, table, rule.name)),
            rule.text, rule.reason,
        )
        for source in sources
        for table, declared in source.tables.items()
        for rule in declared.rules
    ]  # fmt: skip
    return Rulebook(rules, unknown)


def _rates(settings: Settings) -> tuple[dict[tuple[str, str, str], float], str | None]:
    """By source, table and rule: the share of violating rows when it was last applied, as Postgres knows it."""
    try:
        database = destination.running_database(settings)
        if database is None:
            return {}, "the embedded Postgres is not running (assay db start)"
        with postgres.connect(database, read_only=True) as connection:
            if not postgres.has_tables(connection, "ops.rule_results"):
                return {}, "nothing was published yet (assay run)"
            rows = connection.execute(
                "SELECT DISTINCT ON (source, table_name, rule) source, table_name, rule, rate "
                "FROM ops.rule_results ORDER BY source, table_name, rule, recorded_at DESC"
            )
            return {(source, table, rule): rate for source, table, rule, rate in rows}, None
    except AssayError as error:
        return {}, error.message
