"""A Django project: a captured table, the context of each request, an event of its own.

    export DJANGO_SETTINGS_MODULE=examples.django_project.settings PYTHONPATH=.
    pip install 'auditledger[django]'
    createdb shop
    export LEDGER_DATABASE_URL=postgresql://localhost/shop
    auditledger migrate && auditledger seal &         # the schema ledger; seals what is recorded, without Redis
    django-admin migrate                              # tables and triggers; recorded as capture.installed
    django-admin runserver

    curl -X POST -H "X-User: ada" localhost:8000/invoices/7/send
    curl -X POST localhost:8000/invoices/7/send
    curl localhost:8000/invoices

The ledger then has:

    user:ada   invoice.created  invoice 7              POST /invoices/7/send
    user:ada   invoice.updated  invoice 7              POST /invoices/7/send
    user:ada   invoice.sent     invoice 7              POST /invoices/7/send
    user:ada   request.post     path /invoices/7/send  success
    anonymous  request.post     path /invoices/7/send  denied
    anonymous  request.get      path /invoices         success
"""
