"""Many generated values for one Spark job: a job for each would take minutes."""

from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

Value = TypeVar("Value")


def examples(strategy: SearchStrategy[Value], count: int = 300) -> list[Value]:
    """`count` values of the strategy (fewer if it has fewer), the same at every call."""
    found: list[Value] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Value) -> None:
        found.append(value)

    collect()
    return found
