"""Settings and declarations as YAML files."""

from pathlib import Path
from typing import Any

import yaml

from jobs.engine.errors import ConfigurationError

# Where PyYAML was built with libyaml, that is ten times as quick.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(file: Path, place: str) -> Any:
    """What a file holds, called `place` in messages. Raises ConfigurationError if it is not text in UTF-8, or not YAML.

    Raises FileNotFoundError if it is not there.
    """
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _LOADER)  # a safe one
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{place}: expected text in UTF-8: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{place}: not valid YAML: {error}") from None
