"""What the web adapters share: a request's context and its entry. Knows no framework, and does no I/O.

Never part of either: bodies, query strings, and header values but for the User-Agent, an X-Request-ID of a trusted
proxy and the ids of a traceparent. docs/capture.md, "Requests", says which requests have an entry.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterable
from contextvars import Context as CopiedContext
from contextvars import copy_context
from fnmatch import fnmatchcase
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeAlias, TypeVar

from ledger.capture.context import Context, audit_context, bind, current
from ledger.errors import InvalidSetting
from ledger.events import Event
from ledger.telemetry import COUNTERS, UNRECORDED

log = logging.getLogger("ledger.contrib")

T = TypeVar("T")
Requests: TypeAlias = Literal["mutations", "all"] | None
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110, 9.2.1. All others are mutations."""
KNOWN_METHODS = SAFE_METHODS | {"POST", "PUT", "PATCH", "DELETE"}
ANONYMOUS = "anonymous"
"""Actor and actor type of a request that nobody is known to have made."""
LONGEST_PATH, LONGEST_USER_AGENT, LONGEST_METHOD, LONGEST_RESOURCE_ID = 1024, 512, 32, 255
"""Characters; what is longer is cut."""
REQUEST_ID = "ledger.request_id"
"""Key of a scope or environ: the request's id, for the application and for another middleware of ours within it."""
_DENIED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_unprintable = partial(re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]").sub, "\ufffd")
_request_id = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}").fullmatch
_traceparent = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
).fullmatch


class Request(NamedTuple):
    """A request as its server hands it over.

    root: the path that the application is mounted at; path: the rest of it. peer: the address that is connected, None
    for a Unix socket. header: the value of a header, by its name in lower case.
    """

    method: str
    root: str
    path: str
    peer: str | None
    header: Callable[[str], str | None]


class Policy:
    """Which requests have an entry, and which proxies are believed.

    requests: "mutations" (those, and every denied or failed request), "all", or None. reads: patterns of paths below
    the root, whose requests have an entry always; `*` is any text. trusted_proxies: addresses and networks.
    Raises InvalidSetting.
    """

    def __init__(self, requests: Requests, reads: Iterable[str], trusted_proxies: Iterable[str]) -> None:
        if requests not in ("mutations", "all", None):
            raise InvalidSetting(f"requests must be 'mutations', 'all' or None, not {requests!r}")
        for name, given in (("reads", reads), ("trusted_proxies", trusted_proxies)):
            if isinstance(given, str):
                raise InvalidSetting(f"{name} must be a list of texts, not one text")
        self.requests = requests
        self.reads = tuple(reads)
        try:
            self._proxies = [ip_network(each, strict=False) for each in trusted_proxies]
        except ValueError as error:
            raise InvalidSetting(f"trusted_proxies: {error}") from None

    def wants(self, request: Request, outcome: str, status: int | None) -> bool:
        """Whether a request with this outcome has an entry."""
        if self.requests == "all" or any(fnmatchcase(request.path, pattern) for pattern in self.reads):
            return True
        if self.requests is None:
            return False
        failed = outcome != "success" and (status is None or status in _DENIED or status >= 500)
        return failed or request.method.upper() not in SAFE_METHODS

    def trusts(self, request: Request) -> bool:
        """Whether the peer is a trusted proxy. What speaks through a Unix socket is one, if any are."""
        return bool(self._proxies) and (request.peer is None or _is_in(request.peer, self._proxies))

    def client(self, request: Request) -> str | None:
        """The client's address: the peer's, or the last one in X-Forwarded-For that is no trusted proxy."""
        hops = [request.peer]
        if self.trusts(request):
            forwarded = (request.header("x-forwarded-for") or "").split(",")
            hops += [address for each in reversed(forwarded) if (address := _address(each.strip()))]
        untrusted = (each for each in hops if each is not None and not _is_in(each, self._proxies))
        return next(untrusted, None if hops[-1] is None else _address(hops[-1]))


class Exchange:
    """One request and what becomes of it: its audit context, opened by `with`, and the event to record, if any."""

    opened: CopiedContext
    """The context variables as they are within the audit context, for code that runs elsewhere: run it in a copy."""

    def __init__(self, policy: Policy, request: Request, request_id: str | None = None) -> None:
        """request_id: one that the request has already."""
        self._policy = policy
        self._request = request
        self._recorded: str | None = None
        self.id = request_id or self._given_id() or uuid.uuid4().hex
        self._context = audit_context(**self._metadata())

    def __enter__(self) -> Self:
        self._context.__enter__()
        self.opened = copy_context()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def bind(self, actor: str | None) -> None:
        """Binds the actor to this request's context, wherever it is called. Raises InvalidEvent."""
        if actor:
            self.opened.copy().run(bind, actor)

    def context(self) -> Context:
        """The audit context, with what has been bound to it."""
        return self.opened.copy().run(current) or Context()

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a part of the application in the request's context, for one that is called part by part.

        All other context variables are the caller's: frameworks set them in one part and reset them in the next.
        """
        before = self.context()
        with audit_context.of(before):
            try:
                return function(*arguments)
            finally:
                after = current()
                if after is not None and after != before:
                    given = {"actor": after.actor, "actor_type": after.actor_type, **after.plain_metadata()}
                    self.opened.copy().run(partial(bind, **given))

    def is_due(self, status: int | None, error: BaseException | None = None) -> bool:
        """Whether an entry is due now: once, and again for a success that became a failure.

        status: of the response; None if there is none. error: what ended the application.
        """
        outcome = _outcome(status, error)
        if self._recorded is not None and not (self._recorded == "success" and outcome == "failure"):
            return False
        return self._policy.wants(self._request, outcome, None if error is not None else status)

    def has_actor(self) -> bool:
        return self.context().actor is not None

    def event(self, status: int | None, error: BaseException | None = None) -> Event:
        """The event to record. It is not due again."""
        outcome = self._recorded = _outcome(status, error)
        metadata: dict[str, Any] = {"outcome": outcome}
        if error is not None:
            metadata["reason"] = type(error).__name__
        if status is not None:
            metadata["response"] = {"status": status}
        context, method = self.context(), self._request.method
        known = context.actor is not None
        return Event(
            context.actor if known else ANONYMOUS,
            f"request.{method.lower() if method in KNOWN_METHODS else 'other'}",
            "path",
            self._path()[:LONGEST_RESOURCE_ID],
            actor_type=(context.actor_type or "user") if known else ANONYMOUS,
            metadata=metadata,
        )

    def _path(self) -> str:
        return _text(self._request.root + self._request.path, LONGEST_PATH) or "/"

    def _given_id(self) -> str | None:
        given = self._request.header("x-request-id") if self._policy.trusts(self._request) else None
        return given if given and _request_id(given) else None

    def _metadata(self) -> dict[str, Any]:
        """source, request and trace, as docs/vocabulary.md names them."""
        request = self._request
        agent, trace = request.header("user-agent"), _traceparent((request.header("traceparent") or "").strip())
        source = {"ip": self._policy.client(request), "user_agent": agent and _text(agent, LONGEST_USER_AGENT)}
        described: dict[str, Any] = {
            "source": {name: value for name, value in source.items() if value},
            "request": {"id": self.id, "method": _text(request.method, LONGEST_METHOD), "path": self._path()},
            "trace": {"trace_id": trace[1], "span_id": trace[2]} if trace else {},
        }
        return {name: value for name, value in described.items() if value}


def _outcome(status: int | None, error: BaseException | None) -> str:
    if status is None or error is not None:
        return "failure"
    if status in _DENIED:
        return "denied"
    return "success" if status < 400 else "failure"


def note_unrecorded(exchange: Exchange, error: Exception) -> None:
    """Logs and counts that a request has no entry. The error's text is left out: it may quote values."""
    COUNTERS.add(UNRECORDED, type(error).__name__)
    log.error("request %s was not recorded in the ledger: %s", exchange.id, type(error).__name__)


def _text(text: str, longest: int) -> str:
    """What an entry may hold of a text that a client chose."""
    return _unprintable(text[:longest])


def _address(text: str) -> str | None:
    """An IPv4 or IPv6 address as RFC 5952 writes it; None for what is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]  # [2001:db8::1]:443
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_in(text: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    address = _address(text)
    return address is not None and any(ip_address(address) in network for network in networks)
