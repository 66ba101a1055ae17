"""The ASGI lifespan protocol."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from . import _log


class StartupFailed(Exception):
    """The application said that it cannot start, or must speak lifespan and does not."""


class Lifespan:
    """One per worker. ``mode`` is ``auto`` (an application without lifespan is fine), ``on`` or ``off``.

    ``state`` is what the application left there; every request gets a copy.
    """

    def __init__(self, app: Any, mode: str = "auto") -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._mode = mode
        self._task: asyncio.Task[BaseException | None] | None = None
        self._to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._answer: asyncio.Future[tuple[str, str]] | None = None
        self._waiting_for = ""

    async def startup(self) -> None:
        """Return when the application is ready. Raises :class:`StartupFailed`."""
        if self._mode == "off":
            return
        self._task = asyncio.get_running_loop().create_task(self._run(), name="pounce-lifespan")
        kind, message = await self._ask("startup")
        if kind == "complete":
            self._task.add_done_callback(self._ended)
            return
        if kind == "failed":
            # It normally ends by itself after this, many by raising what was wrong: the message has it.
            await asyncio.wait({self._task}, timeout=1)
            self._error()
            raise StartupFailed(message or "lifespan.startup.failed, without a message")
        # It ended without an answer.
        error = self._error()
        self._task = None
        if self._mode == "auto" and not isinstance(error, (SystemExit, KeyboardInterrupt)):
            _log.debug("The application does not support lifespan", error)
            return
        if error is None:
            raise StartupFailed("the application returned before it answered lifespan.startup (lifespan is 'on')")
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
        raise StartupFailed(f"the application failed in lifespan startup: {error!r}\n{text}")

    async def shutdown(self) -> None:
        """Return when the application has shut down. Failures are logged."""
        if self._task is None or self._task.done():
            return
        kind, message = await self._ask("shutdown")
        if kind == "failed":
            _log.error(f"The application's lifespan shutdown failed: {message or 'no message'}")
        if kind != "ended":
            # What comes after the answer belongs to it (an exit stack, say).
            await asyncio.wait({self._task})
        error = self._error()
        if error is not None:
            _log.error("The application's lifespan shutdown raised", error)

    def _error(self) -> BaseException | None:
        """What the application raised, if it has ended."""
        task = self._task
        if task is None or not task.done() or task.cancelled():
            return None
        error = task.exception()
        return task.result() if error is None else error

    def _ended(self, task: asyncio.Task[BaseException | None]) -> None:
        if self._waiting_for == "startup" and (error := self._error()) is not None:
            _log.error("The application's lifespan ended before its shutdown; requests are served on", error)

    async def _ask(self, what: str) -> tuple[str, str]:
        assert self._task is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._waiting_for = what
        self._to_app.put_nowait({"type": f"lifespan.{what}"})
        await asyncio.wait({self._task, self._answer}, return_when=asyncio.FIRST_COMPLETED)
        if self._answer.done():
            return self._answer.result()
        return ("ended", "")

    async def _run(self) -> BaseException | None:
        """What ``exit()`` and the like raised, which as a task's exception would go through the whole loop, past all that has
        to be told and closed first.
        """
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._to_app.get, self._send)
        except (SystemExit, KeyboardInterrupt) as error:
            return error
        return None

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        what, waiting = self._waiting_for, self._answer is not None and not self._answer.done()
        if waiting and kind in (f"lifespan.{what}.complete", f"lifespan.{what}.failed"):
            assert self._answer is not None
            self._answer.set_result((kind.rpartition(".")[2], str(message.get("message", ""))))
            return
        raise RuntimeError(
            f"unexpected ASGI message {kind!r}: for lifespan it is "
            f"'lifespan.{what}.complete' or 'lifespan.{what}.failed', once"
        )
