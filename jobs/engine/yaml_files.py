"""Settings and declarations as YAML files."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from jobs.engine.errors import ConfigurationError

# Where PyYAML was built with libyaml, that is ten times as quick.
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = "tag:yaml.org,2002:"


class _Loader(_SAFE):  # type: ignore[misc]
    """YAML as a safe loader reads it, but that of two keys of one name none is passed over, and a day stays text."""

    # As `on: 2024-01-31` is in quotes, too: what is to be a day says so itself.
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAGS}timestamp"]
        for first, resolvers in _SAFE.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"found the key {key.value!r} twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def read_yaml(file: Path, place: str) -> Any:
    """What a file holds, called `place` in messages. Raises ConfigurationError if it is not text in UTF-8, or not YAML.

    Raises FileNotFoundError if it is not there.
    """
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)  # a safe one
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{place}: expected text in UTF-8: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{place}: not valid YAML: {error}") from None
