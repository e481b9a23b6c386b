"""Talking to a gateway from the command line."""

from __future__ import annotations

import os
from typing import Annotated, Any, cast

import httpx2
from cyclopts import Parameter

from helexa.base.errors import HelexaError

DEFAULT = "http://127.0.0.1:31313"

Endpoint = Annotated[
    str | None, Parameter(name=("--endpoint", "-e"), help=f"The gateway; else $CORTEX_URL, else {DEFAULT}.")
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


UNREACHABLE = (httpx2.HTTPError, httpx2.InvalidURL)
"""What a call raises where nobody can be asked: no connection, or an address that is none."""


class NoGateway(HelexaError):
    """No gateway answers at {url}: {reason}. Start one with `cortex up`, or name yours with --endpoint."""

    code = "no_gateway"
    status = 503


class GatewayRefused(HelexaError):
    """The gateway refused."""

    code = "refused"


def url_of(endpoint: str | None) -> str:
    """The gateway's base address, without a trailing slash; `host:port` is one, too."""
    given = (endpoint or os.environ.get("CORTEX_URL") or DEFAULT).rstrip("/").removesuffix("/v1")
    return given if "://" in given else f"http://{given}"


def headers() -> dict[str, str]:
    """Who asks, where $CORTEX_API_KEY says so."""
    return {"authorization": f"Bearer {key}"} if (key := os.environ.get("CORTEX_API_KEY")) else {}


def call(method: str, endpoint: str | None, path: str, body: object = None, timeout_s: float = 10.0) -> Any:
    """One JSON call. Raises NoGateway, or GatewayRefused: in the gateway's own words, or since none answers there."""
    url = url_of(endpoint)
    try:
        answer = httpx2.request(method, url + path, json=body, timeout=timeout_s, headers=headers())
    except UNREACHABLE as error:
        raise no_gateway(url, error) from error
    found = decoded(answer)
    if answer.status_code >= 400 or not isinstance(found, dict):
        raise refused(url, answer.status_code, found)
    return cast(Any, found)


def no_gateway(url: str, error: Exception) -> NoGateway:
    """That nobody can be asked there, and why."""
    return NoGateway(url=url, reason=str(error).rstrip(".") or type(error).__name__)


def refused(url: str, status: int, found: object) -> GatewayRefused:
    """What a gateway said, or that whoever answers there is none."""
    return GatewayRefused(message_in(found) or f"{url} answers with HTTP {status}: is a gateway there?")


def decoded(answer: httpx2.Response) -> object:
    """The JSON of an answer; None where it is none."""
    try:
        return answer.json()
    except ValueError:
        return None


def message_in(found: object) -> str:
    """The message of an error envelope, or nothing."""
    if not isinstance(found, dict):
        return ""
    error = cast(dict[str, Any], found).get("error")
    return str(cast(dict[str, Any], error).get("message", "")) if isinstance(error, dict) else str(error or "")
