"""Its views, sync and async, and the admin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from asgiref.sync import sync_to_async
from django.contrib import admin
from django.contrib.auth import authenticate, login
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from ledger import Event
from ledger.capture import bind
from ledger.contrib.django import record
from tests.integration.contrib.shop.models import Invoice

admin.site.register(Invoice)


def create(request: HttpRequest, number: int) -> HttpResponse:
    if "actor" in request.headers:
        bind(actor=request.headers["actor"])
    Invoice.objects.create(number=number)
    with transaction.atomic():
        Invoice.objects.filter(number=number).update(status="sent")
        record(Event(None, "invoice.sent", "invoice", str(number)))
    return HttpResponse("created")


async def acreate(request: HttpRequest, number: int) -> HttpResponse:
    if "actor" in request.headers:
        bind(actor=request.headers["actor"])
    await Invoice.objects.acreate(number=number)
    return HttpResponse("created")


def fail(request: HttpRequest) -> HttpResponse:
    Invoice.objects.create(number=1)
    raise ZeroDivisionError("s3cr3t")


def deny(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def log_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username=request.POST["name"], password=request.POST["password"])
    if user is None:
        return HttpResponse(status=401)
    login(request, user)
    return HttpResponse("welcome")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def rows() -> Iterator[bytes]:
        record(Event(None, "row.read"))
        yield b"rows"

    return StreamingHttpResponse(rows())


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def rows() -> AsyncIterator[bytes]:
        await sync_to_async(record)(Event(None, "row.read"))
        yield b"rows"

    return StreamingHttpResponse(rows())


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("create/<int:number>", create),
    path("acreate/<int:number>", acreate),
    path("fail", fail),
    path("deny", deny),
    path("log-in", log_in),
    path("stream", stream),
    path("astream", astream),
    path("page", page),
    path("patients/<int:number>", lambda request, number: HttpResponse("patient")),
]
