"""What etcd does and this member does not yet: refused at start, in one line, never half done."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

from supervisor.config import Config
from supervisor.errors import StartError

TRACING: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.grpc")
"""What the extra `tracing` installs."""


def check_built(config: Config, *, initialized: bool) -> None:
    """Raise StartError if the configuration asks for something that is not built yet.

    A member with a log knows its cluster: what only says how to find one is passed over then.
    """
    if config.enable_distributed_tracing and not _has_tracing():
        text = "--enable-distributed-tracing needs more packages: pip install trouped[tracing]"
        raise StartError(text)
    for missing in _missing(config, initialized):
        raise StartError(f"{missing} not built yet")


def _has_tracing() -> bool:
    try:
        return all(find_spec(name) is not None for name in TRACING)
    except ModuleNotFoundError:  # a package around one of them
        return False


def _missing(config: Config, initialized: bool) -> Iterator[str]:
    urls = (
        *config.listen_client_urls,
        *config.listen_client_http_urls,
        *config.listen_metrics_urls,
    )
    if any(url.is_secure for url in urls):
        yield "TLS on client URLs (https://, unixs://) is"
    if config.force_new_cluster:
        yield "--force-new-cluster is"
    if initialized:
        return
    if not config.is_new_cluster:
        yield "joining a cluster (--initial-cluster-state existing) is"
    if config.discovery_endpoints or config.discovery_srv:
        yield "discovery (--discovery-endpoints, --discovery-srv) is"
