from django.db import models


class Invoice(models.Model):  # type: ignore[misc]
    status = models.CharField(max_length=20, default="draft")
    iban = models.CharField(max_length=34, default="DE00")
