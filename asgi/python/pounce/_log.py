"""The log lines of a worker, written by the extension module in the form that the settings ask for."""

from __future__ import annotations

import traceback
from collections.abc import Callable

_write: Callable[[str, str], None] | None = None


def connect(write: Callable[[str, str], None]) -> None:
    """Send lines to ``write(level, text)`` from now on."""
    global _write
    _write = write


def error(message: str, cause: BaseException | None = None) -> None:
    """Log ``message`` and the traceback of ``cause``."""
    _line("error", message, cause)


def debug(message: str, cause: BaseException | None = None) -> None:
    """Log what only matters to whoever looks for it."""
    _line("debug", message, cause)


def _line(level: str, message: str, cause: BaseException | None) -> None:
    if _write is None:
        return
    if cause is not None:
        message += "\n" + "".join(traceback.format_exception(type(cause), cause, cause.__traceback__)).rstrip()
    # Lone surrogates (undecodable file names in a traceback) are not text to anybody else.
    _write(level, message.encode("utf-8", "backslashreplace").decode("utf-8"))
