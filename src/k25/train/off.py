"""Settings that can be switched off: TOML has no word for nothing, so recipes say "off"."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

OFF = "off"


def _read(value: Any) -> Any:
    return None if value == OFF else value


def _written(value: float | None) -> float | str:
    return OFF if value is None else value


# A positive number, or None where the recipe says "off".
PositiveOrOff = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
    BeforeValidator(_read),
    PlainSerializer(_written, when_used="json"),
]
