"""A FastAPI application with async SQLAlchemy: what its sessions write is recorded in their transactions.

    pip install 'auditledger[embedded,sqlalchemy]' fastapi uvicorn
    export LEDGER_HOME=.ledger-fastapi                # servers of its own, to try it out
    auditledger migrate && auditledger run &          # seals what is recorded
    uvicorn --factory examples.fastapi_app:create

    curl -X POST -H "X-User: ada" localhost:8000/invoices/7?total=12.50
    curl -X POST -H "X-User: bob" localhost:8000/invoices/7/send
    curl -X POST localhost:8000/invoices/7/send
    curl -X POST -H "X-User: bob" localhost:8000/invoices/7/send
    curl -X POST -H "X-User: ada" localhost:8000/invoices/7?total=1

To send the invoice twice changes it once: before {"status": "draft"}, after {"status": "sent"}. The ledger then has:

    user:ada   invoice.created  invoice 7              POST /invoices/7
    user:ada   request.post     path /invoices/7       success
    user:bob   invoice.updated  invoice 7              POST /invoices/7/send
    user:bob   request.post     path /invoices/7/send  success
    anonymous  request.post     path /invoices/7/send  denied
    user:bob   request.post     path /invoices/7/send  success
    user:ada   request.post     path /invoices/7       failure
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from sqlalchemy import Numeric
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ledger import Ledger
from ledger.capture import bind
from ledger.contrib.asgi import AuditMiddleware
from ledger.contrib.sqlalchemy import Policy, capture


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    total: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    status: Mapped[str] = mapped_column(default="draft")


async def user(x_user: Annotated[str | None, Header()] = None) -> None:
    """Who makes the request. An application of yours checks a session or a token here."""
    if x_user is None:
        raise HTTPException(401)
    bind(actor=f"user:{x_user}")


def create(ledger: Ledger | None = None) -> FastAPI:
    ledger = ledger or Ledger.open()
    url = (ledger.settings.database_url or "").replace("postgresql:", "postgresql+psycopg:")
    engine = create_async_engine(url)
    sessions = async_sessionmaker(engine)
    capture(sessions, {Invoice: Policy(action="invoice.{op}", resource_type="invoice")})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan, dependencies=[Depends(user)])
    app.add_middleware(AuditMiddleware, ledger=ledger)

    @app.post("/invoices/{number}")
    async def add(number: int, total: Decimal) -> str:
        try:
            async with sessions.begin() as session:
                session.add(Invoice(id=number, total=total))
        except IntegrityError:
            raise HTTPException(409) from None
        return "added"

    @app.post("/invoices/{number}/send")
    async def send(number: int) -> str:
        async with sessions.begin() as session:
            (await session.get_one(Invoice, number)).status = "sent"
        return "sent"

    return app
