"""The log lines of a worker."""

from __future__ import annotations

import os
import sys
import time
import traceback


def line(message: str, error: BaseException | None = None) -> None:
    """Write ``message`` and the traceback of ``error`` to standard error, at once, so that workers do not mix lines."""
    text = f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {message}\n"
    if error is not None:
        text += "".join(traceback.format_exception(type(error), error, error.__traceback__))
    data = text.encode("utf-8", "backslashreplace")
    try:
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        # Nobody reads the log; that is no reason to fail a request.
        pass
