"""What stands before an HTTP service: it turns away what is too large, and whoever would be one too many.

    app.add_middleware(Guard, megabytes=32, waiting=64)

Bodies are read whole before anything is parsed, so that none of a size that was not allowed reaches a parser.
"""

import json
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """An ASGI application around another.

    Args:
        app: what answers whatever is let through.
        megabytes: most of one request's body; more is answered 413.
        waiting: most requests that are answered or wait at a time; one more is answered 503.

    Source:
        Ours.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], megabytes: int, waiting: int) -> None:
        self.app, self.megabytes, self.waiting = app, megabytes, waiting
        self.inside, self.lock = 0, threading.Lock()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.lock:
            full = self.inside >= self.waiting
            self.inside += not full
        if full:
            detail = f"{self.waiting} requests are waiting already; ask again in a second."
            await _refuse(send, 503, detail, {"retry-after": "1"})
            return
        try:
            await self._limited(scope, receive, send)
        finally:
            with self.lock:
                self.inside -= 1

    async def _limited(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        parts, size, more = list[bytes](), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self.megabytes << 20:
                await _refuse(send, 413, f"the body has more than {self.megabytes} MB; send it in parts.")
                return
        body: Message | None = {"type": "http.request", "body": b"".join(parts), "more_body": False}

        async def again() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            first, body = body, None
            return first

        await self.app(scope, again, send)


async def _refuse(send: Send, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
    body = json.dumps({"detail": detail}).encode()
    told = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    raw = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
