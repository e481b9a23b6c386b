"""One choice of an answer while it is made: tokens in, frames or a message out. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal

from helexa.neuron.core.chat.answer import Answer as Reading
from helexa.neuron.core.chat.answer import Piece
from helexa.neuron.core.chat.detokenize import Detokenizer
from helexa.neuron.core.chat.logprobs import as_lists
from helexa.neuron.engines.serving.bodies import Answer
from helexa.wire.canon import Text, Thought

Finish = Literal["stop", "length"]


@dataclass(slots=True, kw_only=True)
class Message:
    """What was said, for an answer that is not streamed."""

    content: list[str] = field(default_factory=list[str])
    thoughts: list[str] = field(default_factory=list[str])
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Choice:
    """Takes what each step made of one sequence. `write` gets the frames of a stream, None for a whole answer."""

    def __init__(
        self,
        index: int,
        answer: Answer,
        reading: Reading,
        pieces: Sequence[bytes],
        *,
        logprobs: bool,
        stop_tokens: AbstractSet[int],
        write: Callable[[bytes], None] | None,
    ) -> None:
        self._index, self._answer, self._reading, self._write = index, answer, reading, write
        self._vocabulary, self._detokenizer = pieces, Detokenizer(pieces)
        self._message = Message()
        self._logprobs: list[dict[str, Any]] | None = [] if logprobs else None
        self._told = 0
        self._stop_tokens = stop_tokens
        self._stop_token: int | None = None
        self.tokens = 0
        self.thought_tokens = 0
        self.finish: str | None = None

    def begin(self) -> None:
        """The first frame of a stream."""
        if self._write is not None and self._answer.chat:
            self._write(self._answer.frame({"role": "assistant", "content": ""}, self._index))

    def take(self, tokens: Sequence[int], logprobs: Sequence[float]) -> bool:
        """What a step made; whether a stop string or token has ended it."""
        if self._stop_tokens:
            tokens = self._before_stop(tokens)
        self.tokens += len(tokens)
        if self._logprobs is not None:
            self._logprobs += [self._logprob(*each) for each in zip(tokens, logprobs, strict=False)]
        pieces = self._reading.feed(self._detokenizer.feed(tokens))
        if pieces and isinstance(pieces[0], Thought):
            self.thought_tokens += len(tokens)
        self._tell(pieces)
        return self._stop_reason is not None

    def _before_stop(self, tokens: Sequence[int]) -> Sequence[int]:
        at = next((at for at, token in enumerate(tokens) if token in self._stop_tokens), None)
        if at is None:
            return tokens
        self._stop_token = tokens[at]
        return tokens[:at]

    @property
    def _stop_reason(self) -> str | int | None:
        return self._stop_token if self._reading.stopped is None else self._reading.stopped

    def end(self, finish: Finish) -> None:
        """The sequence is complete."""
        self._tell(self._reading.feed(self._detokenizer.end()))
        self._tell(self._reading.end())
        if self._stop_reason is not None:
            finish = "stop"
        self.finish = "tool_calls" if self._reading.called and finish == "stop" else finish

    def last_frame(self, **more: object) -> bytes:
        """The frame that says why it ended."""
        return self._answer.streamed(self._answer.choice({}, self._index) | self._ending(), **more)

    def whole(self) -> dict[str, Any]:
        """The choice of an answer that is not streamed."""
        said = "".join(self._message.content)
        if not self._answer.chat:
            return self._closed({"text": said})
        message: dict[str, Any] = {"role": "assistant", "content": said if said or not self._message.calls else None}
        if self._message.thoughts:
            message["reasoning_content"] = "".join(self._message.thoughts)
        if self._message.calls:
            message["tool_calls"] = self._message.calls
        return self._closed({"message": message})

    def _tell(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Text):
                self._say({"content": piece.text}, self._message.content, piece.text)
            elif isinstance(piece, Thought):
                self._say({"reasoning_content": piece.text}, self._message.thoughts, piece.text)
            elif piece.name is not None:
                function = {"name": piece.name, "arguments": ""}
                self._call({"index": piece.index, "id": piece.id, "type": "function", "function": function})
            else:
                self._call({"index": piece.index, "function": {"arguments": piece.arguments}})

    def _say(self, delta: dict[str, Any], said: list[str], text: str) -> None:
        if self._write is None:
            said.append(text)
            return
        choice = self._answer.choice(delta, self._index)
        if self._logprobs is not None:
            choice["logprobs"] = self._likelihoods(self._logprobs[self._told :])
            self._told = len(self._logprobs)
        self._write(self._answer.streamed(choice))

    def _call(self, delta: dict[str, Any]) -> None:
        if self._write is not None:
            self._write(self._answer.frame({"tool_calls": [delta]}, self._index))
        elif "id" in delta:
            self._message.calls.append({name: delta[name] for name in ("id", "type", "function")})
        else:
            self._message.calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]

    def _closed(self, choice: dict[str, Any]) -> dict[str, Any]:
        closed = {"index": self._index} | choice | self._ending()
        return closed if self._logprobs is None else closed | {"logprobs": self._likelihoods(self._logprobs)}

    def _likelihoods(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """The last of them, as the endpoint speaks."""
        if self._answer.chat:
            return {"content": entries}
        before = (self._logprobs or [])[: -len(entries) or None] if entries else []
        return as_lists(entries, sum(len(entry["token"]) for entry in before))

    def _ending(self) -> dict[str, Any]:
        """Why it ended, and the stop string or token if that is why."""
        stopped = self._stop_reason
        return {"finish_reason": self.finish} | ({} if stopped is None else {"stop_reason": stopped})

    def _logprob(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._vocabulary[token] if 0 <= token < len(self._vocabulary) else b""
        return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": [*raw], "top_logprobs": []}
