# Written from settings/src/table.rs by `UPDATE=1 cargo test -p pounce-settings`; do not edit.
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, final

@final
class ServerConfig:
    def __init__(
        self,
        *,
        host: str = ...,
        port: int = ...,
        bind: str | Sequence[str] | None = ...,
        uds: str | os.PathLike[str] | None = ...,
        fd: int | None = ...,
        backlog: int = ...,
        app_dir: str | os.PathLike[str] = ...,
        factory: bool = ...,
        lifespan: Literal["auto", "on", "off"] = ...,
        root_path: str = ...,
        python: str | os.PathLike[str] | None = ...,
        loop: Literal["asyncio"] = ...,
        shutdown_timeout: float | str | timedelta = ...,
        drain_delay: float | str | timedelta = ...,
        keepalive_linger: float | str | timedelta = ...,
        startup_timeout: float | str | timedelta | None = ...,
        keep_alive_timeout: float | str | timedelta = ...,
        header_timeout: float | str | timedelta = ...,
        body_timeout: float | str | timedelta = ...,
        write_timeout: float | str | timedelta = ...,
        request_timeout: float | str | timedelta | None = ...,
        max_connections: int | None = ...,
        max_headers: int = ...,
        max_header_size: int | str = ...,
        max_body_size: int | str | None = ...,
        health_check_path: str | None = ...,
        access_log: bool = ...,
        log_level: Literal["error", "warning", "info", "debug", "trace"] = ...,
        log_format: Literal["text", "json"] = ...,
        otel_endpoint: str | None = ...,
        otel_service_name: str | None = ...,
        workers: int = ...,
        pid_file: str | os.PathLike[str] | None = ...,
        forwarded_allow_ips: str | None = ...,
        config: str | os.PathLike[str] | None = ...,
    ) -> None: ...
    @property
    def host(self) -> str:
        """Host name or IP address to listen on; 0.0.0.0 or :: for all."""
    @property
    def port(self) -> int:
        """Port to listen on; 0 for any free one."""
    @property
    def bind(self) -> tuple[str, ...] | None:
        """HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N, instead of --host and --port. May be repeated."""
    @property
    def uds(self) -> str | None:
        """Listen on a Unix domain socket instead. A stale socket file is replaced, a live one is an error."""
    @property
    def fd(self) -> int | None:
        """Listen on an inherited socket instead. systemd's socket activation needs no flag."""
    @property
    def backlog(self) -> int:
        """Connections that the kernel may hold before they are accepted (listen(2))."""
    @property
    def app_dir(self) -> str:
        """Directory to import the application from; goes first in sys.path."""
    @property
    def factory(self) -> bool:
        """APP is a function that returns the application; the same as writing main:create_app()."""
    @property
    def lifespan(self) -> Literal["auto", "on", "off"]:
        """ASGI lifespan: auto goes on without it when the application does not support it, on insists, off skips it."""
    @property
    def root_path(self) -> str:
        """The ASGI root_path, when a proxy serves the application under a prefix."""
    @property
    def python(self) -> str | None:
        """Python interpreter of the workers. Default: $VIRTUAL_ENV/bin/python, else python3."""
    @property
    def loop(self) -> Literal["asyncio"]:
        """The event loop. pounce brings its own fast selector to asyncio; uvloop would undo that."""
    @property
    def shutdown_timeout(self) -> float:
        """How long running requests may take to finish once the drain began; then they are cut."""
    @property
    def drain_delay(self) -> float:
        """How long to go on serving after the signal, with readiness at 503, so that load balancers notice first."""
    @property
    def keepalive_linger(self) -> float:
        """How long an idle connection waits for a request already on the wire before the drain closes it."""
    @property
    def startup_timeout(self) -> float | None:
        """Kill a worker that is not ready so long after its start: the start, or the reload, has failed."""
    @property
    def keep_alive_timeout(self) -> float:
        """Close a connection that has been idle this long. Keep it above the proxy's own."""
    @property
    def header_timeout(self) -> float:
        """408 for a request whose head has not arrived complete by then."""
    @property
    def body_timeout(self) -> float:
        """408 for a request whose body makes no progress for this long."""
    @property
    def write_timeout(self) -> float:
        """Close the connection of a client that reads nothing of its response for this long."""
    @property
    def request_timeout(self) -> float | None:
        """504 and cancel the handler of a request whose response has not begun by then."""
    @property
    def max_connections(self) -> int | None:
        """Open connections, all workers together; one more gets a 503."""
    @property
    def max_headers(self) -> int:
        """Header fields of one request; 431 for more."""
    @property
    def max_header_size(self) -> int:
        """Bytes of one request head; 431 for more."""
    @property
    def max_body_size(self) -> int | None:
        """Bytes of one request body; 413 for more."""
    @property
    def health_check_path(self) -> str | None:
        """Answer GET and HEAD on this path without the application: 200, and 503 from the signal on."""
    @property
    def access_log(self) -> bool:
        """One line per request, to stderr."""
    @property
    def log_level(self) -> Literal["error", "warning", "info", "debug", "trace"]:
        """Log this and what is more serious."""
    @property
    def log_format(self) -> Literal["text", "json"]:
        """How log lines look."""
    @property
    def otel_endpoint(self) -> str | None:
        """Where to send OpenTelemetry traces and metrics."""
    @property
    def otel_service_name(self) -> str | None:
        """The service's name in OpenTelemetry."""
    @property
    def workers(self) -> int:
        """Worker processes."""
    @property
    def pid_file(self) -> str | None:
        """Write the process id here; removed at exit."""
    @property
    def forwarded_allow_ips(self) -> str | None:
        """Proxies whose X-Forwarded-For is believed."""
    @property
    def config(self) -> str | None:
        """Read settings from this TOML file. Default: ./pounce.toml, else [tool.pounce] of ./pyproject.toml."""
    def to_args(self) -> list[str]: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
