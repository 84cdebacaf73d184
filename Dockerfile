# syntax=docker/dockerfile:1
# The image of a member. Settings are flags (`command` of the container): no ETCD_ variable is set
# here, because a variable whose flag is given as well stops a member from starting.
ARG PYTHON_IMAGE=python:3.11-slim

# --- wheels: trouped and everything it needs, built where compilers may be ---------------------
FROM ${PYTHON_IMAGE} AS wheels
# `--build-arg PIP_NO_INDEX=1` takes wheels from the wheelhouse alone.
ARG PIP_NO_INDEX
WORKDIR /src
# A folder `wheelhouse` next to this file, when there is one, serves wheels without a network.
# (The license file is named so that the pattern beside it may match nothing.)
COPY LICENSE wheelhouse* /wheelhouse/
COPY setup.cfg pyproject.toml README* LICENSE ./
COPY etcdpb etcdpb
COPY raft raft
COPY kv kv
COPY storage storage
COPY transport transport
COPY api api
COPY control control
COPY actors actors
COPY supervisor supervisor
RUN pip wheel --no-cache-dir --find-links=/wheelhouse --wheel-dir=/wheels .

# --- the member ---------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="trouped" \
      org.opencontainers.image.description="An etcd-compatible key-value store" \
      org.opencontainers.image.licenses="Apache-2.0"
# Any user may run a member: its data and its sockets are private folders inside of the two.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels trouped \
    && install -d -m 1777 /var/lib/trouped /run/trouped
# Our packages have short names: never take modules from the working directory.
ENV PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /var/lib/trouped
VOLUME ["/var/lib/trouped"]
EXPOSE 2379 2380
# The supervisor is process 1: it reaps, hands signals on and stops the member in order.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["troupectl", "health"]
ENTRYPOINT ["trouped"]
