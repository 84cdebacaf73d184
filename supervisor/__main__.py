"""The console command `trouped`: read the flags, take the data directory, become root."""

from __future__ import annotations

import os
import sys

import supervisor.at_start  # noqa: F401 - before all others
from supervisor.config import Config, parse
from supervisor.data_directory import (
    check_data_dir,
    data_dir_warnings,
    is_initialized,
    lock_data_dir,
    lock_wal_dir,
)
from supervisor.errors import ConfigError, HelpRequested, StartError, VersionRequested
from supervisor.listen import bind_urls
from supervisor.logs import LogSink, fatal
from supervisor.member import serve
from supervisor.not_built import check_built
from supervisor.peer_keys import check_peer_keys
from supervisor.process import raise_descriptor_limit
from supervisor.run_directory import remove_run_directory, run_directory
from supervisor.validation import check_bootstrap


def main() -> None:
    """Run a member; the exit code is etcd's where etcd has one."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run a member with these arguments until it is stopped; return the exit code."""
    try:
        config = parse(argv, os.environ)
    except (HelpRequested, VersionRequested) as request:
        print(request)  # noqa: T201 - what was asked for
        return 0
    except ConfigError as error:
        return _refused(error)
    try:
        sink = LogSink(
            level=config.log_level, log_format=config.log_format, outputs=config.log_outputs
        )
    except StartError as error:
        fatal(str(error))
        return 1
    try:
        return start(config, sink)
    except (StartError, ConfigError) as error:
        sink.log("fatal", "cannot start", error=str(error))
        return 1


def _refused(error: ConfigError) -> int:
    if error.level:
        sink = LogSink(level="info", log_format="json", outputs=("stderr",))
        sink.log(error.level, error.msg, **error.fields)
    else:
        fatal(str(error))
    return error.exit_code


def start(config: Config, sink: LogSink) -> int:
    """Take what the member needs from the machine, then be root. Raises StartError, ConfigError."""
    for level, lines in (("info", config.notes), ("warn", config.warnings)):
        for msg, found in lines:
            sink.log(level, msg, **found)
    check_data_dir(config.data_dir)
    initialized = is_initialized(config.wal_directory)
    if not initialized:
        check_bootstrap(config)
    elif config.discovery_endpoints:
        msg = "discovery token is ignored since cluster already initialized; valid logs are found"
        sink.log("warn", msg, wal_dir=str(config.wal_directory))
    check_built(config, initialized=initialized)
    check_peer_keys(config)
    raise_descriptor_limit()
    lock_fd = lock_data_dir(config.data_dir)
    if config.wal_dir:
        lock_wal_dir(config.wal_dir)
    for msg, found in data_dir_warnings(config.data_dir):
        sink.log("warn", msg, **found)
    bound = {
        purpose: bind_urls(
            urls,
            reuse_port=config.socket_reuse_port,
            reuse_address=config.socket_reuse_address,
        )
        for purpose, urls in (
            ("client", config.listen_client_urls),
            ("http", config.listen_client_http_urls),
            ("metrics", config.listen_metrics_urls),
            ("peer", config.listen_peer_urls),
        )
        if urls
    }
    run_dir = run_directory(config, os.environ)
    try:
        return serve(config, sink, lock_fd, bound, run_dir, initialized=initialized)
    finally:
        remove_run_directory(run_dir)


if __name__ == "__main__":
    main()
