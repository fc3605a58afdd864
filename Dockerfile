# The command line in an image; compose.yaml runs the migrations and the worker from it. BASE needs Python 3.11 or newer with its venv module.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all:
WORKDIR /src
# The pinned pip first: older ones cannot check hashes that stand in a constraints file.
COPY constraints.txt ./
RUN sed -n '/^pip==/,/[^\\]$/p' constraints.txt > pip.txt \
    && for venv in /opt/builder /opt/auditledger; do \
           python3 -m venv "$venv" && "$venv/bin/python" -m pip install -q --require-hashes -r pip.txt || exit 1; \
       done \
    && /opt/builder/bin/python -m pip install -q -c constraints.txt hatchling
COPY . .
# The wheel first, then its dependencies, each checked against its hash.
RUN /opt/builder/bin/python -m pip wheel -q --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/auditledger/bin/python -m pip install -q --no-deps --no-index dist/*.whl \
    && /opt/auditledger/bin/python -m pip install -q -c constraints.txt 'auditledger[metrics]'

FROM ${BASE}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin auditledger
COPY --from=build /opt/auditledger /opt/auditledger
ENV PATH=/opt/auditledger/bin:$PATH PYTHONUNBUFFERED=1
USER auditledger
WORKDIR /tmp
ENTRYPOINT ["auditledger"]
CMD ["run"]
