"""Calls an ASGI application as a server does: one request, whose response is collected."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from ledger.contrib.asgi import App, Message


class Response(NamedTuple):
    """status: None if the application did not begin a response."""

    status: int | None
    body: bytes


async def call(
    app: App,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    query: str = "",
    body: bytes = b"",
    client: tuple[str, int] | None = ("192.0.2.1", 50000),
    root_path: str = "",
    messages: list[Message] | None = None,
) -> Response:
    """messages: collects what the application sends, also if it raises."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 80),
        "method": method,
        "path": root_path + path,
        "raw_path": (root_path + path).encode(),
        "root_path": root_path,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        "client": client,
    }
    sent: list[Message] = [] if messages is None else messages
    received = False

    async def receive() -> dict[str, Any]:
        nonlocal received
        if received:
            await asyncio.Event().wait()  # a client that stays connected
        received = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    status = next((message["status"] for message in sent if message["type"] == "http.response.start"), None)
    return Response(status, b"".join(message.get("body", b"") for message in sent))
