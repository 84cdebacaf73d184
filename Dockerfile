# The image of a member. Settings are flags (`command` of the container): no ETCD_ variable is set
# here, because a variable whose flag is given as well stops a member from starting.
# Builds with BuildKit and without it, from an index or from a wheelhouse; nothing is fetched but
# the base image and the packages.
ARG PYTHON_IMAGE=python:3.11-slim

# --- build: trouped and everything it needs, where compilers may be -----------------------------
FROM ${PYTHON_IMAGE} AS build
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
COPY pytest_trouped pytest_trouped
RUN python3 -m venv /opt/trouped \
    && /opt/trouped/bin/pip install --no-cache-dir --find-links=/wheelhouse . \
    && /opt/trouped/bin/pip uninstall --yes pip setuptools

# --- the member ---------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="trouped" \
      org.opencontainers.image.description="An etcd-compatible key-value store" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/trouped /opt/trouped
# Any user may run a member: its data and its sockets are private folders inside of the two.
RUN install -d -m 1777 /var/lib/trouped /run/trouped
# Our packages have short names: never take modules from the working directory.
ENV PATH=/opt/trouped/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /var/lib/trouped
VOLUME ["/var/lib/trouped"]
EXPOSE 2379 2380
# The supervisor is process 1: it reaps, hands signals on and stops the member in order.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["troupectl", "health"]
ENTRYPOINT ["trouped"]
