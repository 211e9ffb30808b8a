"""The HTTP API: what there is, and signed URLs of the files that hold it.

Errors are {"error", "details"?, "code"?}, checked in this order: 401 key, 400 parameters (every
wrong one at once), 403 plan, 404 dataset, 429 rate. No data is not an error: 200 and no files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from publish.api import schema
from publish.api.access import Access
from publish.api.errors import ErrorBody, Refused, install, json_response
from publish.api.files import serve_file
from publish.api.measured import Measured
from publish.api.parameters import BarsQuery, ExchangeQuery, RawPreviewQuery, RawQuery
from publish.catalog import METRICS, RAW, RAW_FAMILY, RAW_SCHEMA_VERSION, Entry, catalog
from publish.keys import Key
from publish.layout import Series
from publish.listing import Listing, RawFile
from publish.partitions import ServedFile
from publish.signing import FILES, LocalSigner, Signer
from publish.store import Store

PREFIX = "/api/v1"
URL_S = 300
RAW_URL_S = 3600


@dataclass(frozen=True, slots=True)
class Service:
    """What the API answers from."""

    store: Store
    listing: Listing
    signer: Signer
    access: Access

    async def bars(self, request: Request, dataset: str, query: BarsQuery) -> Response:
        series = Series(dataset, query.exchange, query.symbol, query.interval, query.timestamp)
        files = await self.listing.bars(series, query.start_date, query.end_date)
        family, base = METRICS[dataset].family, _base(request)
        return json_response(
            {"files": [self._bar_file(file, family, base) for file in files]}, headers=_PRIVATE
        )

    def _bar_file(self, file: ServedFile, family: str, base: str) -> dict[str, Any]:
        url = self.signer.sign(file.key, family, URL_S, base)
        body: dict[str, Any] = {"year": file.year, "month": file.month, "url": url}
        return {**body, "day": file.part.day.day} if file.part else body

    async def raw(
        self, request: Request, dataset: str, query: RawPreviewQuery, first: date, last: date
    ) -> Response:
        days = await self.listing.raw(dataset, query.exchange, query.symbol)
        base = _base(request)
        asked = [first + timedelta(days=i) for i in range((last - first).days + 1)]
        body = {
            "dataset": dataset,
            "exchange": query.exchange,
            "symbol": query.symbol,
            "schema_version": RAW_SCHEMA_VERSION,
            "expires_in": RAW_URL_S,
            "files": [self._raw_file(days[day], base) for day in asked if day in days],
            "missing_periods": [str(day) for day in asked if day not in days],
        }
        return json_response(body, headers=_PRIVATE)

    def _raw_file(self, file: RawFile, base: str) -> dict[str, Any]:
        url = self.signer.sign(file.key, RAW_FAMILY, RAW_URL_S, base)
        return {"period": str(file.day), "url": url, "size": file.size}


_PRIVATE = {"Cache-Control": "private, no-store"}


def create_app(service: Service) -> FastAPI:
    """The ASGI application."""
    app = schema.Documented(
        title="perpflow",
        version="1",
        description="Order flow, top of book and OHLCV of crypto perpetuals, as monthly parquet.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    install(app)
    app.include_router(_metadata(service))
    app.include_router(_data(service))
    if isinstance(service.signer, LocalSigner):
        _serve_files(app, service.store, service.signer)
    app.add_middleware(Measured)
    return app


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _known(dataset: str, entries: Mapping[str, Entry]) -> None:
    if dataset not in entries:
        raise Refused(
            404,
            f"There is no such dataset: there are {', '.join(entries)}",
            code="unknown_dataset",
        )


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": _STATUSES[status]} for status in statuses}


_STATUSES = {
    400: "Wrong parameters, each named in details.",
    401: "No valid key.",
    403: "The key's plan has no such data, or it is not in the preview.",
    404: "No such dataset.",
    429: "Too many requests: try again after Retry-After seconds.",
    503: "The storage is not available: try again.",
}


def _name(entries: Mapping[str, Entry]) -> Any:
    return Path(description=schema.listed(entries), json_schema_extra={"enum": list(entries)})


def _metadata(service: Service) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/metadata", tags=["metadata"])
    access = service.access

    @router.get("/catalog", response_model=schema.CatalogBody)
    async def get_catalog() -> Response:
        """The datasets that are served, with every field, in the order of the files."""
        return json_response(catalog())

    @router.get("/symbols", response_model=schema.Symbols, responses=_errors(400, 401, 429, 503))
    async def get_symbols(
        key: Annotated[Key, Depends(access.key)], query: Annotated[ExchangeQuery, Query()]
    ) -> Response:
        """The instruments of a venue."""
        access.limit(key)
        symbols = await service.listing.symbols(query.exchange)
        return json_response({"symbols": symbols, "exchange": query.exchange, "bucket": "metrics"})

    @router.get("/raw", response_model=schema.CoverageBody, responses=_errors(503))
    async def get_raw_coverage() -> Response:
        """The raw datasets, and of which days there are files. No key is needed."""
        return json_response(await coverage(service.listing))

    return router


async def coverage(listing: Listing) -> dict[str, Any]:
    """The answer of `/metadata/raw`."""
    tree: dict[str, dict[str, dict[str, Any]]] = {}
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    for (dataset, exchange, symbol), covered in (await listing.coverage()).items():
        first, last = str(covered.first), str(covered.last)
        tree.setdefault(dataset, {}).setdefault(exchange, {})[symbol] = {
            "first": first,
            "last": last,
            "days": covered.days,
            "missing": covered.missing,
            "bytes": covered.size,
        }
        total = totals.setdefault(
            (dataset, exchange), {"symbols": 0, "first": first, "last": last, "bytes": 0}
        )
        total["symbols"] += 1
        total["first"], total["last"] = min(total["first"], first), max(total["last"], last)
        total["bytes"] += covered.size
    return {
        "datasets": catalog()["raw_datasets"],
        "summary": [{"dataset": d, "exchange": e, **total} for (d, e), total in totals.items()],
        "coverage": tree,
    }


def _data(service: Service) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/data", tags=["data"])
    access = service.access
    Asking = Annotated[Key, Depends(access.key)]  # noqa: N806
    metric, raw = _name(METRICS), _name(RAW)
    bars: dict[str, Any] = {"response_model": schema.FilesOfBars, "responses": _errors(*_STATUSES)}
    ticks: dict[str, Any] = {"response_model": schema.FilesOfRaw, "responses": _errors(*_STATUSES)}

    # The paths with more words first: {dataset} would not match them, but "preview" is no dataset.
    @router.get("/raw/preview/{dataset}", **ticks)
    async def get_raw_preview(
        request: Request,
        key: Asking,
        dataset: Annotated[str, raw],
        query: Annotated[RawPreviewQuery, Query()],
    ) -> Response:
        """Raw ticks that are free, with the public demo key too."""
        free = access.preview_days(query.exchange, query.symbol)
        _known(dataset, RAW)
        access.limit(key)
        return await service.raw(request, dataset, query, free.first, free.last)

    @router.get("/raw/{dataset}", **ticks)
    async def get_raw(
        request: Request,
        key: Asking,
        dataset: Annotated[str, raw],
        query: Annotated[RawQuery, Query()],
    ) -> Response:
        """Files of raw ticks, one a UTC day of arrival: what happened in the last moments of a day
        may be in the file of the next."""
        access.raw(key)
        _known(dataset, RAW)
        access.limit(key)
        return await service.raw(request, dataset, query, query.start_date, query.end_date)

    @router.get("/preview/{dataset}", **bars)
    async def get_preview(
        request: Request,
        key: Asking,
        dataset: Annotated[str, metric],
        query: Annotated[BarsQuery, Query()],
    ) -> Response:
        """Files of bars that are free, with the public demo key too."""
        access.preview(query.exchange, query.symbol, query.start_date, query.end_date)
        _known(dataset, METRICS)
        access.limit(key)
        return await service.bars(request, dataset, query)

    @router.get("/{dataset}", **bars)
    async def get_bars(
        request: Request,
        key: Asking,
        dataset: Annotated[str, metric],
        query: Annotated[BarsQuery, Query()],
    ) -> Response:
        """Files of bars: one a month, and those of the days that are not in their month's file yet.

        A file holds its whole month, day or hour (of 1s bars), whatever was asked for of it.
        """
        access.bars(key, query.interval)
        _known(dataset, METRICS)
        access.limit(key)
        return await service.bars(request, dataset, query)

    return router


def _serve_files(app: FastAPI, store: Store, signer: LocalSigner) -> None:
    async def get_file(request: Request, key: str) -> Response:
        return await serve_file(request, key, store, signer)

    path = FILES + "{key:path}"
    app.add_api_route(path, get_file, methods=["GET", "HEAD"], include_in_schema=False)
