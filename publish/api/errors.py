"""Refusals, in the one form that the public client reads: {"error", "details"?, "code"?}."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from publish.keys import KeysError
from publish.store import StoreError

_log = structlog.get_logger(__name__)


class ErrorBody(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="What is wrong, in a sentence.")
    details: list[str] | None = Field(None, description="Each thing that is wrong.")
    code: str | None = Field(None, description="The reason, for programs.")


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        error: str,
        *,
        code: str,
        details: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.status = status
        self.code = code
        self.details = list(details)
        self.headers = headers

    def response(self) -> Response:
        body: dict[str, Any] = {"error": str(self), "code": self.code}
        if self.details:
            body["details"] = self.details
        return json_response(body, self.status, self.headers)


def json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def install(app: FastAPI) -> None:
    """Answer every kind of error in that form."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(StoreError, _store)
    app.add_exception_handler(KeysError, _keys)
    app.add_exception_handler(Exception, _defect)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    """Every wrong parameter, by name."""
    assert isinstance(error, RequestValidationError)
    details, code = [], "invalid_parameters"
    for item in error.errors():
        name = ".".join(map(str, item["loc"][1:])) or str(item["loc"][0])
        text = "is missing" if item["type"] == "missing" else item["msg"]
        text = text.removeprefix("Value error, ").replace("Input should", "should")
        details.append(f"{name}: {text}")
        if item["type"] == "range_too_long":
            code = item["type"]
    return Refused(400, "Wrong parameters", code=code, details=details).response()


async def _http(request: Request, error: Exception) -> Response:
    """What the routing itself refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return Refused(
        error.status_code, str(error.detail), code=code, headers=error.headers
    ).response()


async def _store(request: Request, error: Exception) -> Response:
    _log.error("the store failed", error=str(error))
    return _unavailable("The storage is not available, try again", "storage_unavailable")


async def _keys(request: Request, error: Exception) -> Response:
    _log.error("the keys can't be read", error=str(error))
    return _unavailable("Keys can't be checked now, try again", "keys_unavailable")


def _unavailable(why: str, code: str) -> Response:
    """503, which clients try again."""
    return Refused(503, why, code=code, headers={"Retry-After": "2"}).response()


async def _defect(request: Request, error: Exception) -> Response:
    return Refused(500, "Internal error", code="internal").response()
