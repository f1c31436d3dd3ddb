"""Who imports whom, and that documents name what is there."""

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from jobs.engine.session import PROJECT

PACKAGES = ("transforms", "jobs", "api", "scripts")
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
_NAMES = r"`[A-Za-z_][\w.]*`"


def _module(file: Path) -> str:
    return ".".join(file.relative_to(PROJECT).with_suffix("").parts)


@cache
def _imports() -> dict[str, set[str]]:
    """Each module of the project, and those that it imports at any time."""
    trees = {_module(f): ast.parse(f.read_text()) for name in PACKAGES for f in (PROJECT / name).rglob("*.py")}
    found: dict[str, set[str]] = {module: set() for module in trees}
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                found[module] |= ({node.module} | named) & trees.keys()
            elif isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names} & trees.keys()
    return found


def test_no_modules_import_each_other() -> None:
    imports = _imports()
    assert len(list(TopologicalSorter(imports).static_order())) == len(imports)  # raises CycleError


def _rows_of_the_design() -> dict[str, int]:
    """Each module of `jobs/`, and in which row of the table of docs/design.md it stands, from the top."""
    table = (PROJECT / "docs/design.md").read_text().partition("| where | what |\n|---|---|\n")[2].partition("\n\n")[0]
    rows: dict[str, int] = {}
    for number, row in enumerate(table.splitlines()):
        first, *others = re.findall(r"`([^`]+)`", row.split("|")[1])
        folder = first.rpartition("/")[0] if "/" in first else "jobs"
        for name in (first, *others):
            place = PROJECT / (name if "/" in name else f"{folder}/{name}")
            assert place.exists(), name
            rows |= {_module(file): number for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])}
    return rows


def test_every_module_of_jobs_stands_in_the_design_and_imports_nothing_that_stands_higher() -> None:
    rows, imports = _rows_of_the_design(), _imports()
    own = {module for module in imports if module.startswith("jobs.") and not module.endswith("__init__")}
    assert own - rows.keys() == set()
    assert [(m, name) for m in sorted(own) for name in imports[m] if rows.get(name, rows[m]) < rows[m]] == []


@pytest.mark.parametrize(
    ("lower", "none_of"),
    [
        ("transforms.", ("jobs", "api", "scripts")),
        ("jobs.engine.", ("api", "scripts")),
        ("jobs.layers.", ("scripts",)),
        ("api.", ("jobs", "transforms", "scripts")),
    ],
)
def test_what_others_build_on_imports_none_of_them(lower: str, none_of: tuple[str, ...]) -> None:
    imports = {module: names for module, names in _imports().items() if module.startswith(lower)}
    assert imports
    assert [(module, name) for module, names in imports.items() for name in names if name.startswith(none_of)] == []


def test_sources_do_not_import_each_other() -> None:
    own = {module: names for module, names in _imports().items() if re.fullmatch(r"transforms\.\w+", module)}
    assert len(own) > 5
    assert [names for names in own.values() if any(not n.startswith("transforms.shared") for n in names)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_files_that_a_document_names_are_there_and_hold_what_it_says_is_in_them(document: Path) -> None:
    text = document.read_text()
    paths = re.findall(r"`((?:jobs|transforms|api|scripts|tests|conf|docs)/[\w/.-]+\.\w+)`", text)
    named = re.findall(
        rf"((?:{_NAMES}(?:, | and )?)+) (?:in|of) `((?:jobs|transforms|api|scripts|conf)/[^`*<]+\.\w+)`", text
    )
    assert [path for path in paths if not (PROJECT / path).exists()] == []
    missing = [
        (name, path)
        for names, path in named
        for name in re.findall(r"[\w.]+", names.replace(" and ", " "))
        if (PROJECT / path).exists() and not re.search(rf"\b{name.rpartition('.')[2]}\b", (PROJECT / path).read_text())
    ]
    assert missing == []
