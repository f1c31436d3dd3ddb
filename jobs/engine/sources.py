"""A source as conf/sources/<source>.yaml declares it, and the functions of transforms/<source>.py behind it."""

import hashlib
import importlib
import inspect
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pyspark.sql import DataFrame

from jobs.engine.errors import ConfigurationError
from jobs.engine.fingerprints import WAY_OF_HASHING
from jobs.engine.session import PROJECT
from jobs.engine.yaml_files import read_yaml, said_of

SOURCES_FOLDER = Path("conf/sources")
Transform = Callable[..., DataFrame]
LONGEST_NAME = 63  # in Postgres
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"no time zone is called {name!r}; use a name such as UTC or Europe/Paris") from None
    return name


class _Strict(BaseModel):
    """An unknown key is an error: a misspelt setting must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Rule(_Strict):
    """What rows of a table must be: a row violates it unless it is true; NULL is a violation.

    One of: `expression`, Spark SQL over the row's columns; `unique`, columns whose values no row with another key has;
    `references`, a column of another silver table (`customers(customer_id)`) that has the row's value of `column`, or
    of the column with the same name. Of the latter two, a row with a missing value passes, as in SQL.
    """

    name: Name
    expression: str | None = Field(None, min_length=1)
    unique: list[Name] = []
    references: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*\([a-z][a-z0-9_]*\)$")
    column: Name | None = None
    action: Literal["warn", "quarantine", "fail"]
    reason: str = Field(min_length=1)
    max_rate: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _is_one_of_three(self) -> "Rule":
        if (self.expression is not None) + bool(self.unique) + (self.references is not None) != 1:
            raise ValueError("expected one of expression, unique and references")
        if self.column and not self.references:
            raise ValueError("column: goes with references")
        return self

    @property
    def needs(self) -> tuple[str, str] | None:
        """The table and the column that `references` names."""
        if self.references is None:
            return None
        table, _, column = self.references.removesuffix(")").partition("(")
        return table, column

    @property
    def columns(self) -> list[str]:
        """The row's columns that `unique` or `references` looks at."""
        return self.unique or ([self.column or self.needs[1]] if self.needs else [])

    @property
    def text(self) -> str:
        """The rule as a person reads it."""
        if self.unique:
            return f"unique ({', '.join(self.unique)})"
        return f"{self.columns[0]} references {self.references}" if self.references else str(self.expression)

    @property
    def condition(self) -> str:
        """Spark SQL that is true for a row that passes; of a rule over many rows, the column with its answer."""
        return self.expression if self.expression is not None else f"`{self.answer}`"

    @property
    def answer(self) -> str:
        return f"_rule_{self.name}"


_COMPRESSED = ("", ".gz", ".bz2")


class RawTable(_Strict):
    """One kind of raw rows: which files hold them and how; each kind is a bronze table.

    `landing` is a glob below the landing folder; names that go on with `.gz` or `.bz2` match, too. With `full_extract`,
    a newer file replaces all earlier ones. With `arrival_order`, rows keep what tells their order. `sheets` are the
    names that its sheet may have in the source's workbooks.
    """

    landing: str
    format: Literal["lines", "csv"]
    columns: list[Name] = []
    required_columns: list[Name] = []
    aliases: dict[str, Name] = Field({}, description="other header names, in lower case with _ -> column")
    sheets: list[str] = []
    full_extract: bool = False
    arrival_order: bool = False

    @property
    def patterns(self) -> list[str]:
        """Which files below the landing folder are of it, as they are and compressed."""
        return [f"{self.landing}{ending}" for ending in _COMPRESSED]

    @model_validator(mode="after")
    def _columns_suit_the_format(self) -> "RawTable":
        if (self.format == "csv") != bool(self.columns):
            raise ValueError("columns: the columns of the raw files, for format csv and for no other")
        for key, names in {"required_columns": self.required_columns, "aliases": self.aliases.values()}.items():
            if unknown := sorted(set(names) - set(self.columns)):
                raise ValueError(f"{key}: {unknown[0]!r} is not among columns ({', '.join(self.columns)})")
        if "**" in self.landing:
            raise ValueError("landing: a pattern of names in given folders, without **")
        if not {"", ".", ".."}.isdisjoint(self.landing.split("/")):
            raise ValueError("landing: a pattern below the landing folder, such as weather/*.txt")
        if self.arrival_order and self.format != "lines":
            raise ValueError("arrival_order: for format lines only")
        return self


class Computed(_Strict):
    """How a table that is computed from others can be brought up to date with less than all of their rows.

    With `row_by_row`, each of its rows comes from one row of its only input and depends on no other: rows that came to
    the input add theirs. With `slice_by`, a column of its own (a day, say): every input row, were it the only one,
    makes a row in each slice that it has a part in; so the transform neither joins its inputs nor filters what it has
    aggregated. Then slices that changed rows touch are computed anew, and the others stay. So it is with `group_by`, a
    column of its own and of each of its inputs (a member, say): its rows of one value come from the inputs' rows of
    that value alone, whatever is made of them. With none of these, nor as an additive silver table, it is computed anew
    as a whole.
    """

    transform: Name | None = None
    row_by_row: bool = False
    slice_by: Name | None = None
    group_by: Name | None = None

    @property
    def parts_by(self) -> str | None:
        """The column that tells its slices, or groups, apart; None, if it has none."""
        return self.slice_by or self.group_by

    @property
    def sum_by(self) -> list[str]:
        """The columns by which an additive table has sums; none, if it is no such table."""
        return []

    @model_validator(mode="after")
    def _is_one_way(self) -> "Computed":
        if sum(map(bool, (self.row_by_row, self.slice_by, self.group_by, self.sum_by))) > 1:
            raise ValueError("expected at most one of row_by_row, slice_by, group_by and (of silver tables) additive")
        return self


class SilverTable(Computed):
    """A cleaned table: parsed from the raw table that `raw` names, or derived from other silver tables.

    Of a source with one raw table, the first silver table is parsed from it.

    Of rows with one key, `keep` says which stays: that of the earliest delivery (of several, the one with the smallest
    `order_by`), or that of the newest file (of several, the one with the greatest `order_by`). With `rebuild: always`
    the table is made anew from all live bronze rows whenever some are new, for its rows depend on each other;
    `keep: newest` and a `unique` rule imply that.

    With `additive`, the columns of a derived table outside its key are counts, and sums of whole numbers or decimals,
    over the rows of its only input: no means, no distinct values, least or greatest ones, and no filter on what was
    aggregated. So those of rows that came are added to what is there, and those of rows that went are taken away. A sum
    of nothing is 0, not NULL, and a key of which nothing is left has no row: one of the columns must count rows.
    """

    raw: Name | None = None
    key: list[Name] = Field(min_length=1)
    additive: bool = False
    rules: list[Rule] = []
    keep: Literal["earliest", "newest"] = "earliest"
    order_by: list[Name] = []
    rebuild: Literal["when_replaced", "always"] = "when_replaced"

    @property
    def referenced(self) -> set[str]:
        """The silver tables that its rules refer to."""
        return {rule.needs[0] for rule in self.rules if rule.needs}

    @property
    def is_always_rebuilt(self) -> bool:
        return self.rebuild == "always" or self.keep == "newest" or any(rule.unique for rule in self.rules)

    @property
    def sum_by(self) -> list[str]:
        return self.key if self.additive else []

    @model_validator(mode="after")
    def _rule_names_are_unique(self) -> "SilverTable":
        names = [rule.name for rule in self.rules]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ValueError(f"two rules are called {sorted(repeated)[0]!r}")
        return self


class PublishedTable(Computed):
    """A gold table, and how Postgres holds it. `columns` maps each column to its comment, in the table's order.

    `unique_key` stands in for `primary_key` where a key column may be NULL.
    """

    schema_: Literal["gold", "restricted"] = Field("gold", alias="schema")
    primary_key: list[Name] = []
    unique_key: list[Name] = []
    description: str = Field(min_length=1)
    columns: dict[Name, str] = Field(min_length=1)
    types: dict[Name, str] = {}
    indexes: list[list[Name]] = []

    @model_validator(mode="after")
    def _columns_exist(self) -> "PublishedTable":
        if bool(self.primary_key) == bool(self.unique_key):
            raise ValueError("expected either primary_key or, where a key column may be NULL, unique_key")
        named = {
            *self.key,
            *self.types,
            *([self.parts_by] if self.parts_by else []),
            *(column for index in self.indexes for column in index),
        }
        if unknown := sorted(named - self.columns.keys()):
            raise ValueError(f"{unknown[0]!r} is not among its columns ({', '.join(self.columns)})")
        return self

    @property
    def key(self) -> list[str]:
        return self.primary_key or self.unique_key


class Check(_Strict):
    """A transform over silver and gold tables that returns one row per contradiction; any row fails the run."""

    name: Name
    transform: Name
    reason: str = Field(min_length=1)


class Export(_Strict):
    """A published table written as one CSV file as well."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.csv$")
    header: list[str]
    order_by: list[Name]


class Document(Computed):
    """A gold table (`key` and `document`, its text) of which each row becomes one file of its own."""

    folder: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    prefix: str = Field("", pattern=r"^[A-Za-z0-9_-]*$")
    suffix: str = Field(pattern=r"^\.[a-z0-9]+$")
    key: Name

    @model_validator(mode="after")
    def _slices_are_documents(self) -> "Document":
        if self.parts_by not in (None, self.key):
            raise ValueError(f"slice_by, group_by: expected its key ({self.key}), found {self.parts_by!r}")
        return self


_OF_RAW = frozenset(RawTable.model_fields)


class Source(_Strict):
    """One source: what arrives, what it becomes, what is published.

    A source with one kind of raw rows declares it at the top level; its raw table has the source's name.
    """

    name: Name
    workbook: str | None = Field(None, description="workbooks that hold a sheet for each raw table")
    raw: dict[Name, RawTable] = Field(min_length=1)
    one_file: str | None = Field(None, description="environment variable that names one file to read instead")
    timezone: Annotated[str, AfterValidator(_known_timezone)] = "UTC"
    tables: dict[Name, SilverTable] = Field(min_length=1)
    publish: dict[Name, PublishedTable] = {}
    documents: dict[Name, Document] = {}
    exports: dict[Name, Export] = {}
    checks: list[Check] = []
    parameters: dict[Name, str | int | float | bool] = {}
    _logic: str = PrivateAttr("")

    @model_validator(mode="before")
    @classmethod
    def _one_raw_table(cls, content: dict[str, Any]) -> dict[str, Any]:
        if "raw" in content:
            return content
        raw = {key: value for key, value in content.items() if key in _OF_RAW}
        tables = content.get("tables")
        if isinstance(tables, dict) and tables and isinstance(first := next(iter(tables.values())), dict):
            tables = {**tables, next(iter(tables)): {"raw": content["name"], **first}}
        rest = {key: value for key, value in content.items() if key not in _OF_RAW}
        return {**rest, "raw": {content["name"]: raw}, "tables": tables}

    @model_validator(mode="after")
    def _raw_tables_are_read(self) -> "Source":
        read = [table.raw for table in self.tables.values() if table.raw]
        if unknown := sorted(set(read) - self.raw.keys()):
            raise ValueError(f"tables: {unknown[0]!r} is not among the raw tables ({', '.join(self.raw)})")
        for name in self.raw:
            if read.count(name) != 1:
                raise ValueError(f"raw.{name}: expected one silver table with `raw: {name}`, found {read.count(name)}")
            if bool(self.workbook) != bool(self.raw[name].sheets):
                raise ValueError(f"raw.{name}.sheets: the sheet names in the source's workbooks, if it has `workbook`")
        if self.one_file and len(self.raw) > 1:
            raise ValueError("one_file: for a source with one raw table only")
        for name, table in self.tables.items():
            self._check_references(name)
            if (table.raw or table.rules) and (table.row_by_row or table.parts_by or table.additive):
                raise ValueError(
                    f"tables.{name}: row_by_row, slice_by, group_by and additive are for derived tables without rules, "
                    "which count all rows"
                )
            if table.parts_by and table.parts_by not in table.key:
                raise ValueError(f"tables.{name}: slice_by, group_by: {table.parts_by!r} is not in its key")
            if table.raw is None and (rule := next((r for r in table.rules if r.action == "quarantine"), None)):
                raise ValueError(f"tables.{name}.rules: {rule.name!r} cannot quarantine: the table is derived")
        return self

    def _check_references(self, name: str) -> None:
        order = list(self.tables)
        for rule in self.tables[name].rules:
            if rule.needs is None:
                continue
            named, place = rule.needs[0], f"tables.{name}.rules: {rule.name!r} references"
            if named not in order[: order.index(name)]:
                raise ValueError(f"{place} {named!r}, which is no silver table declared before {name}")
            if self.tables[name].raw and not self.tables[named].raw:
                raise ValueError(f"{place} {named!r}, which is derived, and so made after {name}")

    @model_validator(mode="after")
    def _names_fit_postgres(self) -> "Source":
        for name, table in self.publish.items():
            # As its staging table is called.
            if (excess := len(f"{table.schema_}__{name}") - LONGEST_NAME) > 0:
                raise ValueError(f"publish.{name}: the name is too long for Postgres by {excess}")
        return self

    @model_validator(mode="after")
    def _exports_are_published(self) -> "Source":
        for table, export in self.exports.items():
            if table not in self.publish:
                raise ValueError(f"exports.{table}: no published table has this name")
            columns = self.publish[table].columns
            if len(export.header) != len(columns):
                raise ValueError(f"exports.{table}.header: {len(export.header)} names for {len(columns)} columns")
            if unknown := [name for name in export.order_by if name not in columns]:
                raise ValueError(f"exports.{table}.order_by: {unknown[0]!r} is not a column of {table}")
        return self

    @property
    def parsed_tables(self) -> dict[str, str]:
        """The silver tables that are parsed from bronze, each with the raw table behind it."""
        return {name: table.raw for name, table in self.tables.items() if table.raw}

    @property
    def derived_tables(self) -> list[str]:
        return [name for name, table in self.tables.items() if not table.raw]

    @property
    def gold_tables(self) -> dict[str, Computed]:
        """The published tables, and those that become documents."""
        return {**self.publish, **self.documents}

    @property
    def patterns(self) -> list[str]:
        """Which files below the landing folder are of this source."""
        texts = [pattern for raw in self.raw.values() for pattern in raw.patterns]
        return [*([self.workbook] if self.workbook else []), *texts]

    @property
    def expected_files(self) -> str:
        """The same, in words."""
        texts = ", ".join(raw.landing for raw in self.raw.values())
        return f"{texts} (also .gz, .bz2){f', {self.workbook}' if self.workbook else ''}"

    def raw_tables_of(self, path: str) -> list[str]:
        """The raw tables that a file below the landing folder has rows of: all, if it is a workbook."""
        if self.is_workbook(path) or len(self.raw) == 1:
            return list(self.raw)
        return [name for name, raw in self.raw.items() if any(fnmatchcase(path, glob) for glob in raw.patterns)]

    def is_workbook(self, path: str) -> bool:
        return self.workbook is not None and fnmatchcase(path, self.workbook)

    def silver_transform(self, table: str) -> Transform:
        return self._function(self.tables[table].transform or table, f"tables.{table}")

    def gold_transform(self, table: str) -> Transform:
        place = "documents" if table in self.documents else "publish"
        return self._function(self.gold_tables[table].transform or table, f"{place}.{table}")

    def check_transform(self, check: Check) -> Transform:
        return self._function(check.transform, f"checks.{check.name}")

    def settings(self) -> dict[str, object]:
        """What a transform may ask for by parameter name, beside tables."""
        return {"timezone": self.timezone, **self.parameters}

    def logic(self) -> str:
        """A fingerprint of the source's file and code: when it changes, gold is computed anew though no row changed.

        They are those of when the source was declared, before its code was loaded: what is deployed while a run is at
        work has not computed its tables.
        """
        return self._logic

    @model_validator(mode="after")
    def _with_logic(self) -> "Source":
        # How rows are hashed belongs to the code: what was recorded of them otherwise would not hold.
        transforms = PROJECT / "transforms"
        files = [PROJECT / SOURCES_FOLDER / f"{self.name}.yaml", *sorted((transforms / "shared").glob("*.py"))]
        own = transforms / f"{self.name}.py"
        files += [own] if own.exists() else sorted((transforms / self.name).glob("*.py"))
        digest = hashlib.sha256(str(WAY_OF_HASHING).encode())
        for file in files:
            if file.exists():
                digest.update(file.read_bytes())
        self._logic = digest.hexdigest()[:16]
        return self

    def _function(self, name: str, place: str) -> Transform:
        code = f"transforms/{self.name}.py"
        try:
            function = getattr(importlib.import_module(f"transforms.{self.name}"), name, None)
        except Exception as error:
            raise ConfigurationError(mistake(error, code), f"{SOURCES_FOLDER / self.name}.yaml needs it") from error
        if not callable(function):
            raise ConfigurationError(
                f"{SOURCES_FOLDER / self.name}.yaml, {place}: {code} has no function {name!r}",
                "write it, or name another one with `transform:`",
            )
        return function  # type: ignore[no-any-return]


def mistake(error: Exception, code: str) -> str:
    """Which line of a source's `code` raised an error, and what it says: of the code, as no row is read meanwhile."""
    folder = str(PROJECT / "transforms")
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)]
    place = f"transforms/{Path(own[-1].filename).relative_to(folder)}, line {own[-1].lineno}" if own else code
    said = str(error).strip().partition("\n")[0]
    return f"{place}: {type(error).__name__}{f': {said}' if said else ''}"


def load_sources(names: list[str] | None = None) -> list[Source]:
    """The sources under conf/sources, all or the named ones, in alphabetical order.

    Raises ConfigurationError naming the file, the key and what was expected, or the names there are; also if two
    sources, be they asked for or not, would write the same table or file.
    """
    files = _files()
    for name in names or []:
        if name not in files:
            raise ConfigurationError(f"no source is called {name!r}", f"sources: {', '.join(files)}")
    wanted, others = [_load(file) for name, file in files.items() if not names or name in names], list[Source]()
    for name, file in files.items():
        if names and name not in names:
            with suppress(ConfigurationError):  # a mistake in what another one declares is no reason to fail
                others.append(_load(file))
    _verify_apart([*wanted, *others])
    return wanted


def source_names() -> set[str]:
    """Of all sources that are declared."""
    return set(_files())


def _files() -> dict[str, Path]:
    return {file.stem: file for file in sorted((PROJECT / SOURCES_FOLDER).glob("*.yaml"))}


def _verify_apart(sources: Sequence[Source]) -> None:
    """Raises ConfigurationError if two declarations write the same: each would undo what the other one does."""
    writers: dict[str, str] = {}
    for source in sources:
        # In Postgres, an index must not be called as another one or a table is.
        tables = [(f"{table.schema_}.{name}", f"publish.{name}") for name, table in source.publish.items()]
        tables += [
            (f"{table.schema_}.{index_name(name, index)}", f"publish.{name}.indexes[{number}]")
            for name, table in source.publish.items()
            for number, index in enumerate(table.indexes)
        ]
        exports = [(f"file {export.file}", f"exports.{name}") for name, export in source.exports.items()]
        documents = [(f"files {d.folder}/{d.prefix}*", f"documents.{name}") for name, d in source.documents.items()]
        for written, key in (*tables, *exports, *documents):
            place = f"{SOURCES_FOLDER / source.name}.yaml, {key}"
            if (other := writers.setdefault(written, place)) != place:
                first, second = sorted((other, place))
                raise ConfigurationError(f"{second}: {first} writes {written}, too", "give one of them another name")


def index_name(table: str, columns: Sequence[str]) -> str:
    """What an index of a published table is called; Postgres takes no more of a name."""
    return f"{table}_by_{'_'.join(columns)}"[:LONGEST_NAME]


def input_names(function: Transform) -> list[str]:
    """The parameters of a transform, in order: names of tables and of settings."""
    return list(inspect.signature(function).parameters)


def _load(file: Path) -> Source:
    place = SOURCES_FOLDER / file.name
    content = read_yaml(file, str(place))
    if not isinstance(content, dict):
        raise ConfigurationError(f"{place}: expected keys such as landing, format, tables; found {content!r}")
    if "name" in content:
        raise ConfigurationError(f"{place}, name: no such setting", "a source is called as its file is")
    try:
        return Source.model_validate({**content, "name": file.stem})
    except ValidationError as error:
        # What is wrong with a raw table declared at the top level is wrong at the top level.
        own = ("raw", file.stem) if "raw" not in content else None
        findings = [
            {**item, "loc": item["loc"][2:] if item["loc"][:2] == own else item["loc"]} for item in error.errors()
        ]
        raise ConfigurationError("\n".join(f"{place}, {_finding(item)}" for item in findings)) from None


def _finding(item: Any) -> str:
    key = ""
    for part in item["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return f"{key}: {said_of(item)}".removeprefix(": ")
