"""Errors that applications can meet."""

from __future__ import annotations


class ClientDisconnected(ConnectionError):
    """``send()`` was called after the client had gone.

    A subclass of ``OSError``, as version 2.4 of the ASGI HTTP specification wants it.
    """


ClientDisconnected.__module__ = "pounce"
