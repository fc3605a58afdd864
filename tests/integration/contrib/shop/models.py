"""Invoices with tags."""

from __future__ import annotations

from django.db import models


class Tag(models.Model):  # type: ignore[misc]
    name = models.CharField(max_length=20)

    class Meta:
        app_label = "shop"


class Invoice(models.Model):  # type: ignore[misc]
    number = models.IntegerField(unique=True)
    status = models.CharField(max_length=20, default="draft")
    iban = models.CharField(max_length=34, default="")
    tags = models.ManyToManyField(Tag)

    class Meta:
        app_label = "shop"
