"""`GET /openapi.json`: the document of every public endpoint, made from the very types that read and write it.

`python -m helexa.gateway.edge.openapi` prints it; docs/reference/openapi.json is a copy that a test keeps current.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

import helexa
from helexa.base.errors import NotFound
from helexa.gateway.edge import answers, orders
from helexa.wire import anthropic, openai_chat, openai_responses

JSON, SSE = "application/json", "text/event-stream"
_REFUSALS = {
    400: "The request is not valid; the error names the field.",
    401: "The key is missing or wrong.",
    404: "There is no such model, or no such thing.",
    405: "The path does not take this method.",
    413: "The body is too large.",
    422: "The model can never be loaded here; the error has the arithmetic.",
    429: "Too many requests wait.",
    500: "The engine failed.",
    502: "The node failed.",
    503: "It cannot be served now; `Retry-After` says when to ask again.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `group` names the dialect, and with it the envelope of errors."""

    path: str
    summary: str
    group: str
    answer: Any
    body: Any = None
    status: int = 200
    streams: bool = False
    query: tuple[str, ...] = ()
    method: str = "get"


def _post(path: str, summary: str, group: str, body: Any, answer: Any, **more: Any) -> Operation:
    return Operation(path=path, summary=summary, group=group, body=body, answer=answer, method="post", **more)


def _get(path: str, summary: str, group: str, answer: Any, **more: Any) -> Operation:
    return Operation(path=path, summary=summary, group=group, answer=answer, **more)


_CHAT, _RESPONSES, _MESSAGES, _CORTEX = "OpenAI", "Responses", "Anthropic", "Operator"
OPERATIONS = (
    _post("/v1/chat/completions", "Chat completions", _CHAT, openai_chat.Request, answers.ChatAnswer, streams=True),
    _post("/v1/completions", "Completions", _CHAT, openai_chat.CompletionRequest, answers.TextAnswer, streams=True),
    _post("/v1/embeddings", "Embeddings", _CHAT, openai_chat.EmbeddingRequest, answers.Embeddings),
    _post("/v1/rerank", "Documents by their relevance", _CHAT, openai_chat.RerankRequest, answers.Ranking),
    _get("/v1/models", "The catalogue", _CHAT, answers.Models, query=("feasible",)),
    _get("/v1/models/{model}", "One model of the catalogue", _CHAT, answers.Model),
    _post("/v1/responses", "Responses", _RESPONSES, openai_responses.Request, openai_responses.State, streams=True),
    _post(
        "/v1/responses/input_tokens",
        "Tokens of a response's input",
        _RESPONSES,
        openai_responses.Request,
        answers.ResponseTokens,
    ),
    _get("/v1/responses/{response_id}", "A response that was kept", _RESPONSES, openai_responses.State),
    Operation(
        path="/v1/responses/{response_id}",
        summary="Forget a response",
        group=_RESPONSES,
        answer=answers.Deleted,
        method="delete",
    ),
    _post("/v1/messages", "Messages", _MESSAGES, anthropic.Request, anthropic.MessageOut, streams=True),
    _post("/v1/messages/count_tokens", "Tokens of a prompt", _MESSAGES, anthropic.CountRequest, answers.MessageTokens),
    _get("/health", "The fleet's health", _CORTEX, answers.Health),
    _get("/version", "The gateway's version", _CORTEX, answers.Version),
    _get("/cortex/v1/nodes", "The nodes", _CORTEX, answers.Nodes),
    _get("/cortex/v1/models", "The catalogue, for operators", _CORTEX, answers.Catalogue),
    _get("/cortex/v1/decisions/{decision}", "Why a request was served as it was", _CORTEX, dict[str, Any]),
    _post("/cortex/v1/load", "Have a model loaded", _CORTEX, orders.Named, answers.Accepted, status=202),
    _post("/cortex/v1/unload", "Have a model go", _CORTEX, orders.Named, answers.Accepted, status=202),
    _post("/cortex/v1/pin", "Keep a model from eviction, or no longer", _CORTEX, orders.Pin, answers.Pinned),
    _post("/cortex/v1/drain", "Give a node no new work, or work again", _CORTEX, orders.Drain, answers.Draining),
    _post("/cortex/v1/plan", "What would be done, without doing it", _CORTEX, orders.Plan, answers.Planned),
    _post("/cortex/v1/reload", "Read the configuration again", _CORTEX, None, answers.Reloaded),
)
_SERVED = frozenset(operation.path for operation in OPERATIONS)
_URL = "the client's base URL must end"
_SAYS = [{"role": "user", "content": "Say hello."}]
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"model": "org/model", "messages": _SAYS},
    "/v1/completions": {"model": "org/model", "prompt": "Once upon a time", "max_tokens": 16},
    "/v1/embeddings": {"model": "org/model", "input": ["Say hello."]},
    "/v1/rerank": {"model": "org/model", "query": "A greeting", "documents": ["Hello.", "Farewell."]},
    "/v1/responses": {"model": "org/model", "input": "Say hello."},
    "/v1/responses/input_tokens": {"model": "org/model", "input": "Say hello."},
    "/v1/messages": {"model": "org/model", "max_tokens": 256, "messages": _SAYS},
    "/v1/messages/count_tokens": {"model": "org/model", "messages": _SAYS},
    "/cortex/v1/load": {"model": "org/model"},
    "/cortex/v1/unload": {"model": "org/model"},
    "/cortex/v1/pin": {"model": "org/model", "pinned": False},
    "/cortex/v1/drain": {"node": "beast", "drain": False},
    "/cortex/v1/plan": {"model": "org/model"},
}
"""A body for each path that takes one; it is answered where there is such a model, made for it, and such a node."""


def nothing_at(path: str) -> NotFound:
    """That a path is not served, and what a client must be told whose base URL lacks the `/v1` or has it twice."""
    if (served := f"/v1{path}") in _SERVED:
        return NotFound(f"There is nothing at {path}; {served} is served: {_URL} in /v1.", path=path)
    if (served := path.removeprefix("/v1")) in _SERVED and served.startswith("/v1/"):
        return NotFound(f"There is nothing at {path}; {served} is served: {_URL} before /v1.", path=path)
    return NotFound(path=path)


@functools.cache
def document() -> bytes:
    """The OpenAPI 3.1 document as JSON, indented."""
    schemas: dict[str, Any] = {}
    refusals: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for group in dict.fromkeys(operation.group for operation in OPERATIONS):
        ours = [operation for operation in OPERATIONS if operation.group == group]
        refs = _schemas(group, ours, schemas)
        refusals |= _refusals(group, refs)
        for operation in ours:
            paths.setdefault(operation.path, {})[operation.method] = _operation(operation, refs)
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "helexa",
            "version": helexa.__version__,
            "description": "Mismatched machines with GPUs as one OpenAI- and Anthropic-compatible endpoint. "
            "A request's fields that are not named here are passed on or ignored.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "responses": refusals},
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def _schemas(group: str, operations: Iterable[Operation], into: dict[str, Any]) -> dict[Any, Any]:
    """The schema of each type of a group; the dialects call different things by one name, so each has its prefix."""
    error = answers.AnthropicError if group == _MESSAGES else answers.OpenaiError
    types = dict.fromkeys([error, *(each for op in operations for each in (op.body, op.answer) if each is not None)])
    prefix = f"{group}."
    found, components = msgspec.json.schema_components(types, ref_template=f"#/components/schemas/{prefix}{{name}}")
    into.update({prefix + name: schema for name, schema in components.items()})
    return {**dict(zip(types, found, strict=True)), "error": found[0]}


def _operation(one: Operation, refs: dict[Any, Any]) -> dict[str, Any]:
    content = {JSON: {"schema": refs[one.answer]}} | ({SSE: {}} if one.streams else {})
    shown: dict[str, Any] = {
        "summary": one.summary,
        "operationId": f"{one.method} {one.path}",
        "tags": [one.group],
        "responses": {str(one.status): {"description": "The answer.", "content": content}} | _errors(one),
    }
    if parameters := _parameters(one):
        shown["parameters"] = parameters
    if one.body is not None:
        body = {"schema": refs[one.body], "example": EXAMPLES[one.path]}
        shown["requestBody"] = {"required": True, "content": {JSON: body}}
    return shown


def _refusals(group: str, refs: dict[Any, Any]) -> dict[str, Any]:
    content = {JSON: {"schema": refs["error"]}}
    return {f"{group}.{status}": {"description": text, "content": content} for status, text in _REFUSALS.items()}


def _errors(one: Operation) -> dict[str, Any]:
    """Anthropic's clients retry 529 and not 503."""
    told = {status: 529 if status == 503 and one.group == _MESSAGES else status for status in _REFUSALS}
    return {str(shown): {"$ref": f"#/components/responses/{one.group}.{status}"} for status, shown in told.items()}


def _parameters(one: Operation) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
    inside = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    return inside + [{"name": name, "in": "query", "schema": {"type": "string"}} for name in one.query]


def main() -> None:
    """Print the document."""
    print(document().decode(), end="")  # noqa: T201


if __name__ == "__main__":
    main()
