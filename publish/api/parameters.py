"""The query parameters: what is allowed. A refusal names every one that is wrong."""

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo
from pydantic import field_validator as check
from pydantic_core import PydanticCustomError

from publish.catalog import CLOCK_MEANINGS, EXCHANGES, INTERVAL_NAMES

RAW_MAX_DAYS = 366
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SYMBOL_BYTES = 200


def _one_of(*allowed: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"should be one of {', '.join(allowed)}")
        return value

    return AfterValidator(check)


def _day(value: object) -> object:
    # Only this form: pydantic would take numbers for Unix time.
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError("should be a date, YYYY-MM-DD")
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"is no date: {error}") from None


def _symbol(value: str) -> str:
    """Any printable text: instruments are named after coins, and those after anything."""
    if not value.isprintable() or not 0 < len(value.encode()) <= _SYMBOL_BYTES:
        raise ValueError("should be an Atlas symbol, like perpetual-BTC-USDT:USDT")
    return value


Symbol = Annotated[
    str,
    AfterValidator(_symbol),
    Field(
        description="Instrument, in Atlas symbology.",
        json_schema_extra={"example": "perpetual-BTC-USDT:USDT"},
    ),
]
Day = Annotated[date, BeforeValidator(_day)]
Exchange = Annotated[str, _one_of(*EXCHANGES), Field(json_schema_extra={"enum": [*EXCHANGES]})]
Interval = Annotated[
    str, _one_of(*INTERVAL_NAMES), Field(json_schema_extra={"enum": [*INTERVAL_NAMES]})
]
Clock = Annotated[
    str, _one_of(*CLOCK_MEANINGS), Field(json_schema_extra={"enum": [*CLOCK_MEANINGS]})
]


class ExchangeQuery(BaseModel):
    exchange: Exchange = Field(description="Venue.")


class RawPreviewQuery(ExchangeQuery):
    symbol: Symbol


class RawQuery(RawPreviewQuery):
    start_date: Day = Field(description="First day, UTC.")
    end_date: Day = Field(description="Last day, UTC, included; at most 366 days in all.")

    @check("end_date")
    @classmethod
    def _range(cls, end: date, info: ValidationInfo) -> date:
        start = _in_order(end, info)
        if start and (end - start).days >= RAW_MAX_DAYS:
            raise PydanticCustomError(
                "range_too_long", f"is more than {RAW_MAX_DAYS} days from start_date: ask in parts"
            )
        return end


class BarsQuery(BaseModel):
    timestamp: Clock = Field(
        description="The clock that the bars were made by: "
        + "; ".join(f"`{name}`, {meaning}" for name, meaning in CLOCK_MEANINGS.items())
        + ".",
    )
    interval: Interval = Field(description="Length of a bar; `1s` with timestamp=true only.")
    exchange: Exchange = Field(description="Venue.")
    symbol: Symbol
    start_date: Day = Field(description="First day, UTC.")
    end_date: Day = Field(description="Last day, UTC, included.")

    @check("interval")
    @classmethod
    def _second(cls, interval: str, info: ValidationInfo) -> str:
        if interval == "1s" and info.data.get("timestamp", "true") != "true":
            raise ValueError("1s is served for timestamp=true only")
        return interval

    @check("end_date")
    @classmethod
    def _range(cls, end: date, info: ValidationInfo) -> date:
        _in_order(end, info)
        return end


def _in_order(end: date, info: ValidationInfo) -> date | None:
    """start_date, if it is right."""
    start = info.data.get("start_date")
    if start is not None and end < start:
        raise ValueError("is before start_date")
    return start
