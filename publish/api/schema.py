"""The answers, and the OpenAPI document: every dataset and field, in the catalog's words."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from publish.catalog import METRICS, RAW, Entry

_TYPES: dict[str, dict[str, Any]] = {
    "timestamp[us]": {"type": "string", "format": "date-time"},
    "timestamp[ns, UTC]": {"type": "string", "format": "date-time"},
    "float64": {"type": ["number", "null"]},
    "int64": {"type": "integer"},
    "int32": {"type": "integer"},
    "string": {"type": "string"},
}


class FileOfBars(BaseModel):
    """One parquet file of bars."""

    year: int
    month: int
    url: str = Field(description="Good for 300 seconds, no key needed, ranges allowed.")
    day: int | None = Field(None, description="Only of a day that is not in its month's file yet.")


class FilesOfBars(BaseModel):
    files: list[FileOfBars] = Field(description="In time order; empty if there is no data.")


class FileOfRaw(BaseModel):
    """One parquet file of raw ticks."""

    period: str = Field(description="The UTC day of arrival, YYYY-MM-DD.")
    url: str = Field(description="Good for 3,600 seconds, no key needed, ranges allowed.")
    size: int = Field(description="Bytes.")


class FilesOfRaw(BaseModel):
    dataset: str
    exchange: str
    symbol: str
    schema_version: int
    expires_in: int = Field(description="Seconds for which the URLs are good.")
    files: list[FileOfRaw] = Field(description="In time order; empty if there is no data.")
    missing_periods: list[str] = Field(description="Days asked for that have no file.")


class Symbols(BaseModel):
    symbols: list[str] = Field(description="Atlas symbols of which there is any dataset.")
    exchange: str
    bucket: str


class FieldBody(BaseModel):
    """A column of a file."""

    name: str
    type: str
    description: str


class DatasetBody(BaseModel):
    """A dataset that is built."""

    name: str
    category: str
    description: str
    fields: list[FieldBody] = Field(description="In the order of the file.")


class NamedBody(BaseModel):
    name: str
    description: str


class CatalogBody(BaseModel):
    exchanges: list[str]
    timestamps: list[NamedBody]
    intervals: list[str]
    datasets: list[DatasetBody]
    raw_datasets: list[DatasetBody]


class CoverageRow(BaseModel):
    """What there is of a raw dataset on a venue."""

    dataset: str
    exchange: str
    symbols: int
    first: str
    last: str
    bytes: int


class CoverageBody(BaseModel):
    datasets: list[DatasetBody]
    summary: list[CoverageRow]
    coverage: dict[str, dict[str, dict[str, dict[str, str | int]]]] = Field(
        description="dataset → exchange → symbol → first and last day, days with a file, days "
        "missing in between, bytes."
    )


def listed(entries: Mapping[str, Entry]) -> str:
    """The datasets and their fields, for the description of a path."""
    return "\n\n".join(
        f"**{entry.name}** ({entry.category}): {entry.about}\n\n"
        + "\n".join(f"- `{field.name}` ({field.type}): {field.about}" for field in entry.fields)
        for entry in entries.values()
    )


class Documented(FastAPI):
    """An application whose OpenAPI document has a schema of a row of each dataset too."""

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            schemas = super().openapi()["components"]["schemas"]
            for kind, entries in (("metrics", METRICS), ("raw", RAW)):
                schemas |= {f"{kind}.{entry.name}": _row(entry) for entry in entries.values()}
        return super().openapi()


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "type": "object",
        "description": f"A row of {entry.name}. {entry.about}",
        "required": [field.name for field in entry.fields],
        "properties": {
            field.name: {**_TYPES[field.type], "description": field.about} for field in entry.fields
        },
    }
