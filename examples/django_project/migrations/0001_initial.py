from django.db import migrations, models

from ledger.contrib.django.operations import CaptureTable


class Migration(migrations.Migration):  # type: ignore[misc]
    initial = True
    operations = (
        migrations.CreateModel(
            "Invoice",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("status", models.CharField(max_length=20, default="draft")),
                ("iban", models.CharField(max_length=34, default="DE00")),
            ],
        ),
        CaptureTable("Invoice", resource_type="invoice", redact=["iban"]),
    )
