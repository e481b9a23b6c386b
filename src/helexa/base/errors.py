"""The one error tree. A leaf names what happened; its docstring is the default message, filled from its fields.

A leaf carries `code` (machine word), `status` (HTTP), an optional `retry_after` and *fields* (the facts), so that
every edge can render it in its own dialect and no text has to be parsed again.
"""

from __future__ import annotations

import inspect
import string
from typing import ClassVar


class _Lenient(string.Formatter):
    """Fills a docstring; a field that was not given shows as `?`."""

    def get_value(self, key: int | str, args: object, kwargs: object) -> object:
        return kwargs.get(key, "?") if isinstance(kwargs, dict) else "?"  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class HelexaError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str = "", *, retry_after: float | None = None, **fields: object) -> None:
        self.fields = fields
        self.retry_after = retry_after
        self.message = message or self._default()
        super().__init__(self.message)

    def _default(self) -> str:
        return _Lenient().format(inspect.cleandoc(type(self).__doc__ or ""), **self.fields).replace("\n", " ")


class InvalidRequest(HelexaError):
    """The request is not valid: {param}."""

    code: ClassVar[str] = "invalid_request_error"
    status: ClassVar[int] = 400

    @property
    def param(self) -> str | None:
        """The path of the field at fault, `messages.3.content`, or None when it is the whole body."""
        param = self.fields.get("param")
        return param if isinstance(param, str) else None


class BodyTooLarge(InvalidRequest):
    """The request body is over the limit of {limit_mib} MiB (`max_body_mb`)."""

    code: ClassVar[str] = "request_too_large"
    status: ClassVar[int] = 413


class NotFound(HelexaError):
    """There is nothing at {path}."""

    code: ClassVar[str] = "not_found"
    status: ClassVar[int] = 404


class MethodNotAllowed(InvalidRequest):
    """{path} takes {allowed}."""

    code: ClassVar[str] = "method_not_allowed"
    status: ClassVar[int] = 405


class UnknownModel(NotFound):
    """The model `{model}` does not exist. {hint}"""

    code: ClassVar[str] = "model_not_found"


class Unauthorized(HelexaError):
    """A valid bearer token is needed here."""

    code: ClassVar[str] = "invalid_api_key"
    status: ClassVar[int] = 401


class Conflict(HelexaError):
    """That cannot be done now: {reason}."""

    code: ClassVar[str] = "conflict"
    status: ClassVar[int] = 409


class Unavailable(HelexaError):
    """The model `{model}` cannot be served right now: {reason}."""

    code: ClassVar[str] = "service_unavailable"
    status: ClassVar[int] = 503


class Refused(HelexaError):
    """The model `{model}` cannot be loaded: {kind}."""

    code: ClassVar[str] = "model_refused"
    status: ClassVar[int] = 422


class UpstreamFailed(HelexaError):
    """The node `{node}` failed while it answered: {reason}"""

    code: ClassVar[str] = "upstream_error"
    status: ClassVar[int] = 502


class ConfigError(HelexaError):
    """{path}: {problem}"""

    code: ClassVar[str] = "config_error"
    status: ClassVar[int] = 400
