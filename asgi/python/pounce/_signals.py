"""What signals mean to a worker, and how to have it that way again.

SIGTERM is a request to the supervisor to have this worker replaced. It is answered in native code, also while Python is
busy. SIGHUP, SIGUSR1 and SIGUSR2 are sent to whole process groups and are the supervisor's affair alone, as is SIGINT.
"""

from __future__ import annotations

import signal
from typing import Any

#: Blocked until there are handlers.
HELD_BACK = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def nothing(number: int, frame: Any) -> None:
    """Python's handler for the signals that native code handles.

    Native handlers call the one before them, which is this. Whoever puts "the old handler" back so gets one that does not
    end the process, as SIG_DFL would; for SIGTERM see ``Loop._handle_signal``.
    """


def install() -> None:
    """Make ``nothing`` the handler; native code puts its own in front later."""
    for number in HELD_BACK:
        signal.signal(number, nothing)


def of_worker(number: int) -> Any:
    """The handler that Python had for a signal before the application set one; ``None`` if it is nothing to a worker."""
    if number == signal.SIGINT:
        return signal.SIG_IGN
    return nothing if number in HELD_BACK else None


def give_back() -> None:
    """In a process that the application forked: what was not set by the application is as in any process."""
    for number in HELD_BACK:
        if signal.getsignal(number) is nothing:
            signal.signal(number, signal.SIG_DFL)
