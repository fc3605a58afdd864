from django.http import HttpRequest, HttpResponse
from django.urls import path

from examples.django_project.models import Invoice
from ledger import Event
from ledger.capture import current
from ledger.contrib.django import record


def user(request: HttpRequest) -> str | None:
    """Who makes the request. Without this, and with django.contrib.auth, it is `user:` and the key of request.user."""
    name = request.headers.get("X-User")
    return f"user:{name}" if name else None


def send(request: HttpRequest, number: int) -> HttpResponse:
    context = current()
    if context is None or context.actor is None:
        return HttpResponse(status=401)
    Invoice.objects.get_or_create(id=number)
    Invoice.objects.filter(id=number).update(status="sent")  # captured by the trigger, as everything is
    record(Event(None, "invoice.sent", "invoice", str(number)))
    return HttpResponse("sent\n")


urlpatterns = [
    path("invoices/<int:number>/send", send),
    path("invoices", lambda request: HttpResponse(f"{Invoice.objects.count()}\n")),
]
