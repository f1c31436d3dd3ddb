"""Computed tables brought up to date by what changed in the tables that they are computed from."""

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from itertools import groupby
from operator import or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, DecimalType, IntegralType

from jobs.engine.calls import call
from jobs.engine.context import Run
from jobs.engine.delta import Changes
from jobs.engine.errors import ConfigurationError
from jobs.engine.listing import dotted
from jobs.engine.sources import Source
from jobs.layers.recipes import Recipe

_TOUCHED = "_touched"
_FEW_PARTS = 400  # so many are named in the query itself: a filter on them goes before more than a join does


def with_changes_added_up(run: Run, source: Source, recipe: Recipe, changes: Mapping[str, Changes]) -> DataFrame:
    """The table's sums, with those over rows that came to its input added, and those over rows that went taken away."""
    ((name, change),) = changes.items()
    sums = run.lake.read(recipe.table)
    if change.added is not None:
        sums = sums.unionByName(call(recipe.transform, {name: change.added}, source))
    if change.removed is not None:
        gone = call(recipe.transform, {name: change.removed}, source)
        less = {name: -F.col(name) for name in gone.columns if name not in recipe.declared.sum_by}
        sums = sums.unionByName(gone.withColumns(less))
    return added_up(recipe, sums)


def added_up(recipe: Recipe, rows: DataFrame) -> DataFrame:
    """One row per key: the sums of its rows; none for a key whose sums are all 0.

    Raises ConfigurationError if the table has other columns than its key and whole numbers or decimals, for the sum of
    others depends on the order in which they are added.
    """
    by, kinds = recipe.declared.sum_by, {field.name: field.dataType for field in rows.schema}
    measures = [name for name in kinds if name not in by]
    wrong = [name for name in measures if not isinstance(kinds[name], (IntegralType, DecimalType))]
    if wrong or not measures or not kinds.keys() >= set(by):
        found = ", ".join(f"{name} {kind.simpleString()}" for name, kind in kinds.items())
        raise ConfigurationError(
            f"{dotted(recipe.table)} is declared additive, and its transform returns {found}",
            f"expected its key ({', '.join(by)}), and sums of whole numbers or decimals; or leave additive out",
        )
    sums = [F.coalesce(F.sum(name), F.lit(0)).cast(kinds[name]).alias(name) for name in measures]
    is_something = reduce(or_, [F.col(name) != 0 for name in measures])
    return rows.groupBy(*by).agg(*sums).where(is_something).select(*rows.columns)


def touched_parts(
    source: Source, recipe: Recipe, inputs: Mapping[str, DataFrame], changes: Mapping[str, Changes]
) -> DataFrame:
    """One row per slice, or group, that has other rows since the changed rows of the inputs came and went."""
    if by := recipe.declared.group_by:
        changed = [rows for change in changes.values() for rows in (change.added, change.removed) if rows is not None]
        touched = [rows.select(by) for rows in changed]
    else:
        by, none = str(recipe.declared.slice_by), {name: frame.where("false") for name, frame in inputs.items()}
        came = {name: change.added for name, change in changes.items() if change.added is not None}
        went = {name: change.removed for name, change in changes.items() if change.removed is not None}
        # Apart: rows that came and rows that went may cancel each other out.
        touched = [call(recipe.transform, none | rows, source).select(by) for rows in (came, went)]
    return reduce(DataFrame.union, touched).distinct()


def with_parts_anew(before: DataFrame, rows: DataFrame, touched: DataFrame) -> DataFrame:
    """The table as it was `before`, with its slices, or groups, that are `touched` computed anew, as in `rows`.

    Spark computes of `rows` what is asked for: a filter on slices, or a join by groups, goes before what makes them.
    """
    by, kind = touched.columns[0], rows.schema[touched.columns[0]].dataType
    # Days as numbers, and others as text, for Python knows no date after the year 9999.
    value = F.unix_date(by) if isinstance(kind, DateType) else F.col(by).cast("string")
    few = [row[0] for row in touched.select(value).limit(_FEW_PARTS + 1).collect()]
    if len(few) <= _FEW_PARTS:
        known = sorted(value for value in few if value is not None)
        if isinstance(kind, DateType):
            is_touched = reduce(or_, [F.col(by).between(*span) for span in _spans(known)], F.lit(False))
        else:
            is_touched = F.col(by).isin(*[F.lit(value).cast(kind) for value in known])
        if None in few:
            is_touched |= F.col(by).isNull()
        # Where it is NULL, it is not touched; said of `rows`, that would keep Spark from skipping files' parts by it.
        return before.where(~F.coalesce(is_touched, F.lit(False))).unionByName(rows.where(is_touched))
    touched = touched.withColumnRenamed(by, _TOUCHED)
    is_same = F.col(by).eqNullSafe(F.col(_TOUCHED))
    return before.join(touched, is_same, "left_anti").unionByName(rows.join(touched, is_same, "left_semi"))


def _spans(days: Iterable[int]) -> Iterator[tuple[Column, Column]]:
    """The first and the last of each run of days, which are numbered and ascending.

    Of spans, unlike of a list, Spark makes bounds of the times that the days are of: it passes over parts of files that
    have other times only.
    """
    for _, run in groupby(enumerate(days), key=lambda numbered: numbered[1] - numbered[0]):
        found = [day for _, day in run]
        yield F.date_from_unix_date(F.lit(found[0])), F.date_from_unix_date(F.lit(found[-1]))


def check_groups(recipe: Recipe, tables: Mapping[str, DataFrame]) -> None:
    """Raises ConfigurationError if a table that is computed group by group, or an input of it, lacks their column."""
    by = recipe.declared.group_by
    if by and (lacking := [name for name, rows in tables.items() if by not in rows.columns]):
        raise ConfigurationError(
            f"{dotted(recipe.table)} is declared group_by {by}, and {lacking[0]} has no such column",
            "expected a column of the table and of all that it is computed from; or leave group_by out",
        )
