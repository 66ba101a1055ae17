"""A worker process: ``python -m pounce._worker``, started by the ``pounce`` executable."""

import signal

# Before anything else is imported: Ctrl-C goes to the whole process group, and only the supervisor answers it.
signal.signal(signal.SIGINT, signal.SIG_IGN)

import asyncio
import gc
import json
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

from . import _extension, _lifespan, _load, _log, _signals
from ._errors import ClientDisconnected
from ._signals import HELD_BACK

#: The application could not be started.
EXIT_APPLICATION_FAILED = 3


def main() -> NoReturn:
    try:
        descriptor = int(os.environ.pop("POUNCE_CONTROL_FD"))
    except (KeyError, ValueError):
        sys.exit("pounce._worker is started by the pounce command; run `pounce module:attribute`")
    try:
        extension = _extension.load()
    except ImportError as error:
        sys.exit(str(error))
    _signals.install()
    native = extension.Worker(descriptor)
    _log.connect(native.log)
    # The handlers are there. Before the application is: its processes would inherit the mask.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
    try:
        code = Worker(native).run()
    except _load.LoadError as error:
        _flush()
        native.start_failed(str(error))
        code = EXIT_APPLICATION_FAILED
    except _lifespan.StartupFailed as error:
        _flush()
        native.start_failed(f"the application's startup failed: {error}")
        code = EXIT_APPLICATION_FAILED
    _flush()
    native.exit_noticed()
    sys.exit(code)


class Worker:
    """What a worker does in Python."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self._settings = json.loads(native.settings)
        self._exit_code = 0
        self._leaving = False
        self._serving = False
        self._stopping: Any = None

    def run(self) -> int:
        """Serve until told to leave; the exit code."""
        from . import _loop, _tasks

        settings = self._settings
        loop = self._loop = _loop.new(self._native)
        _tasks.make_on_demand(self._native.task_of_first_step)
        named = settings["app"]["application"]
        target = f"{named['module']}:{named['attribute']}" + ("()" if named["factory"] else "")
        app = _load.load(target, app_dir=settings["app_dir"])
        self._lifespan = _lifespan.Lifespan(app, settings["lifespan"])
        self._native.bind(
            app,
            loop,
            state=self._lifespan.state,
            log=_log.error,
            on_stop=self._on_stop,
            on_exit=self._on_exit,
            disconnected=ClientDisconnected,
        )
        if self._native.catches_call_soon:
            self._loop.call_soon = self._native.call_soon  # type: ignore[method-assign]
        try:
            self._run_until_told(self._lifespan.startup())
            if not self._leaving:
                self._serving = True
                # What is there now stays: no later collection need look at it.
                gc.collect()
                gc.freeze()
                self._native.serve()
                loop.run_forever()
        finally:
            self._native.exit_noticed()
            _loop.close(loop)
        return self._exit_code

    def _run_until_told(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run ``coroutine`` to its end, or to the order to leave."""
        task = asyncio.Task(coroutine, loop=self._loop, name="pounce-startup")

        def stop(_: object) -> None:
            self._loop.stop()

        task.add_done_callback(stop)
        try:
            self._loop.run_forever()
        finally:
            # If something else ended it, the loop is still to be closed, and runs for that.
            task.remove_done_callback(stop)
        if task.done():
            task.result()

    def _on_stop(self) -> None:
        if not self._serving:
            # Told to stop while it starts: there is nothing to shut down.
            self._native.host_stopped()
            return
        # Not by the application's task factory: a drain must not fail with it.
        self._stopping = asyncio.Task(self._stop(), loop=self._loop, name="pounce-shutdown")

    async def _stop(self) -> None:
        # Handlers may still be at work after their response.
        while (idle := self._native.wait_until_idle()) is not None:
            await idle
        try:
            await self._lifespan.shutdown()
        finally:
            _flush()
            self._native.host_stopped()

    def _on_exit(self, code: int) -> None:
        self._native.exit_noticed()
        self._exit_code = code
        self._leaving = True
        self._loop.stop()


def _before_fork() -> None:
    # A SIGTERM for the child that comes before `_in_child` has to wait: the handler would tell the supervisor.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)


def _in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)


def _in_child() -> None:
    """In a process that the application forked: signals are its own again."""
    signal.set_wakeup_fd(-1)
    _signals.give_back()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


if __name__ == "__main__":
    main()
