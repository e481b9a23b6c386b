"""What the keeper asks of an engine itself, over the private socket: does it step, and can it answer a prompt?"""

from __future__ import annotations

import asyncio

import msgspec

from helexa.http1.client import Origin, UpstreamError
from helexa.neuron.harness import Facts

_JSON = [(b"content-type", b"application/json")]
ANSWER_LIMIT = 4 << 20
CANARY_TOKENS = 8


async def answers(socket: str, path: str, within_s: float) -> bool:
    """Whether the engine answers `path` in time. A connection that breaks is an answer too: a worker's end is told
    elsewhere."""
    origin = Origin(unix_path=socket)
    try:
        async with asyncio.timeout(within_s), await origin.request(b"GET", path.encode()) as answer:
            await answer.read(ANSWER_LIMIT)
    except TimeoutError:
        return False
    except UpstreamError:
        return True
    finally:
        await origin.aclose()
    return True


async def canary(socket: str, model_id: str, facts: Facts, within_s: float) -> str | None:
    """Have the model answer a short prompt; None when it did, else why that counts as a failure."""
    path, body = _canary(model_id, facts)
    origin = Origin(unix_path=socket)
    try:
        async with asyncio.timeout(within_s), await origin.request(b"POST", path, _JSON, body) as answer:
            said = await answer.read(ANSWER_LIMIT)
    except TimeoutError:
        return f"no answer within {within_s:g} s"
    except UpstreamError as error:
        return str(error)
    finally:
        await origin.aclose()
    return None if answer.status == 200 else f"status {answer.status}: {said[:200].decode(errors='replace')}"


def _canary(model_id: str, facts: Facts) -> tuple[bytes, bytes]:
    if "embeddings" in facts.capabilities and "text" not in facts.capabilities:
        return b"/v1/embeddings", msgspec.json.encode({"model": model_id, "input": "canary"})
    turn = {"role": "user", "content": "Count from one to five."}
    ask = {"model": model_id, "messages": [turn], "max_tokens": CANARY_TOKENS, "temperature": 0}
    return b"/v1/chat/completions", msgspec.json.encode(ask)
