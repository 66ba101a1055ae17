"""pounce serves ASGI applications and drops no request when it stops.

``pounce myapp:app`` on the command line, ``python -m pounce myapp:app``, or from Python::

    import pounce

    pounce.run("myapp:app", pounce.ServerConfig(port=8000, workers=4))
"""

from __future__ import annotations

from typing import Any, NoReturn

from ._config import ServerConfig
from ._errors import ClientDisconnected

__all__ = ["ClientDisconnected", "ServerConfig", "run"]


def run(app: str, config: ServerConfig | None = None, **settings: Any) -> NoReturn:
    """Serve ``app`` (``"module:attribute"``) until it is stopped, then raise ``SystemExit`` with the exit code.

    ``settings`` are those of :class:`ServerConfig`; they cannot be combined with ``config``.
    """
    if not isinstance(app, str):
        raise TypeError(
            f"run() takes the application as 'module:attribute', not as {type(app).__name__}: "
            "each worker process imports it for itself"
        )
    if config is not None and settings:
        raise TypeError("run() takes a ServerConfig or settings as keywords, not both")
    if config is None:
        config = ServerConfig(**settings)

    from ._executable import call

    raise SystemExit(call([app, *config.to_args()]))
