"""Settings and declarations as YAML files."""

from pathlib import Path
from typing import Any, ClassVar

import yaml

from jobs.engine.errors import ConfigurationError

# Where PyYAML was built with libyaml, that is ten times as quick.
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SAFE):  # type: ignore[misc]
    """YAML as a safe loader reads it, but a day stays text, as in quotes: what is to be a day says so itself."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _SAFE.yaml_implicit_resolvers.items()
    }


def read_yaml(file: Path, place: str) -> Any:
    """What a file holds, called `place` in messages. Raises ConfigurationError if it is not text in UTF-8, or not YAML.

    Raises FileNotFoundError if it is not there.
    """
    try:
        loader = _Loader(file.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        _refuse_repeated(node, set())  # before merges add keys to it
        return None if node is None else loader.construct_document(node)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{place}: expected text in UTF-8: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{place}: not valid YAML: {error}") from None


def said_of(item: Any) -> str:
    """What pydantic found wrong with a value; a check of our own says itself what was found, if it may be shown."""
    if item["type"] == "extra_forbidden":
        return "no such setting"
    if item["type"] == "missing":
        return "missing"
    said = str(item["msg"]).removeprefix("Value error, ")
    return said if item["type"] == "value_error" else f"{said} (found: {item['input']!r})"


def _refuse_repeated(node: yaml.Node | None, seen: set[int]) -> None:
    """Raises YAMLError for a key that a mapping has twice, of which PyYAML takes the last one without a word."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))
    keys = set[tuple[str, str]]()
    for child in node.value:
        for part in child if isinstance(node, yaml.MappingNode) else [child]:
            _refuse_repeated(part, seen)
        if not isinstance(node, yaml.MappingNode) or not isinstance(key := child[0], yaml.ScalarNode):
            continue
        if (key.tag, key.value) in keys:
            raise yaml.MarkedYAMLError(problem=f"found the key {key.value!r} twice", problem_mark=key.start_mark)
        keys.add((key.tag, key.value))
