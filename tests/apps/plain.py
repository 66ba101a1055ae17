"""A plain ASGI application with a path for everything that a test wants of one.

Where $EVENTS names a file, what happens is appended to it, one line `pid event` each.
"""

import asyncio
import json
import os
import subprocess
import threading
import time
from urllib.parse import parse_qs


def event(text):
    path = os.environ.get("EVENTS")
    if path:
        line = f"{os.getpid()} {text}\n".encode()
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, line)
        os.close(file)


async def lifespan(scope, receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            if "state" in scope:
                scope["state"]["greeting"] = "set at start-up"
            event("startup")
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            event("shutdown begins")
            await asyncio.sleep(float(os.environ.get("SHUTDOWN_TAKES", "0")))
            event("shutdown ends")
            await send({"type": "lifespan.shutdown.complete"})
            return


async def respond(send, body, status=200, headers=()):
    if isinstance(body, str):
        body = body.encode()
    headers = [(b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def whole_body(receive):
    """The body, and whether it came to its end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body, False
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body, True


async def root(scope, receive, send, query):
    await respond(send, "hello")


async def pid(scope, receive, send, query):
    await respond(send, str(os.getpid()))


async def slow(scope, receive, send, query):
    event("slow begins")
    await asyncio.sleep(float(query["s"]))
    event("slow ends")
    await respond(send, "slow")


async def block(scope, receive, send, query):
    event("block begins")
    time.sleep(float(query["s"]))
    await respond(send, "blocked")


async def compute(scope, receive, send, query):
    """As /block, with the GIL held."""
    event("compute begins")
    end = time.monotonic() + float(query["s"])
    while time.monotonic() < end:
        sum(range(1000))
    await respond(send, "computed")


async def swallow(scope, receive, send, query):
    event("swallow begins")
    end = time.monotonic() + float(query["s"])
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            event("cancelled")
    await respond(send, "swallowed")


async def cancellable(scope, receive, send, query):
    event("cancellable begins")
    try:
        await asyncio.sleep(float(query["s"]))
    except asyncio.CancelledError:
        event("cancelled")
        raise
    await respond(send, "not cancelled")


async def stream(scope, receive, send, query):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for i in range(int(query["n"])):
        await send({"type": "http.response.body", "body": b"line %d\n" % i, "more_body": True})
        event("sent a line")
        await asyncio.sleep(float(query["gap"]))
    await send({"type": "http.response.body", "body": b""})


async def big(scope, receive, send, query):
    """`n` bytes whose every position can be checked."""
    count = int(query["n"])
    block = bytes(range(256)) * 256
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % count)]})
    event("big begins")
    for at in range(0, count, len(block)):
        # Memory of its own for each part: `block[:]` would be the same object every time.
        part = bytes(memoryview(block)[: count - at])
        await send({"type": "http.response.body", "body": part, "more_body": at + len(block) < count})
    event("big ends")


async def echo(scope, receive, send, query):
    body, complete = await whole_body(receive)
    event(f"echo of {len(body)} bytes, {'complete' if complete else 'cut'}")
    if complete:
        await respond(send, body)


GO = asyncio.Event()


async def held(scope, receive, send, query):
    """Takes nothing of the body until somebody asks for /go; then all of it, and answers its length."""
    await GO.wait()
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message["body"])
        more = message["more_body"]
    await respond(send, str(length))


async def go(scope, receive, send, query):
    GO.set()
    await respond(send, "gone")


async def show_scope(scope, receive, send, query):
    def plain(value):
        if isinstance(value, bytes):
            return value.decode("latin-1")
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)

    await respond(send, json.dumps(plain(scope)))


async def raises(scope, receive, send, query):
    raise RuntimeError("raised before the head")


async def raises_late(scope, receive, send, query):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    raise RuntimeError("raised after the head")


async def raises_later(scope, receive, send, query):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await asyncio.sleep(0.5)
    raise RuntimeError("raised in the middle")


async def nothing(scope, receive, send, query):
    return


async def short(scope, receive, send, query):
    """Promises ten bytes and sends five."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b"short"})


async def bad_header(scope, receive, send, query):
    try:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"x-evil", b"a\r\nx-injected: yes")]}
        )
        await send({"type": "http.response.body", "body": b"sent"})
    except Exception as error:
        event(f"refused: {type(error).__name__}")
        raise


async def until_gone(scope, receive, send, query):
    await receive()
    event("waiting")
    message = await receive()
    event(message["type"])


async def background(scope, receive, send, query):
    await respond(send, "done")
    event("background begins")
    await asyncio.sleep(float(query["s"]))
    event("background ends")


async def thread(scope, receive, send, query):
    """Leaves a thread of the default executor that never ends."""
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    await respond(send, "never ends")


async def orphan(scope, receive, send, query):
    """Leaves a process whose parent is gone, and that ends soon."""
    subprocess.run(["sh", "-c", "sleep 0.2 &"], check=True)
    await respond(send, "orphaned")


PATHS = {
    "/": root,
    "/pid": pid,
    "/slow": slow,
    "/block": block,
    "/compute": compute,
    "/swallow": swallow,
    "/cancellable": cancellable,
    "/stream": stream,
    "/big": big,
    "/echo": echo,
    "/held": held,
    "/go": go,
    "/scope": show_scope,
    "/raises": raises,
    "/raises-late": raises_late,
    "/raises-later": raises_later,
    "/nothing": nothing,
    "/short": short,
    "/bad-header": bad_header,
    "/until-gone": until_gone,
    "/background": background,
    "/thread": thread,
    "/orphan": orphan,
}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    query = {k: v[0] for k, v in parse_qs(scope["query_string"].decode()).items()}
    handler = PATHS.get(scope["path"].removeprefix(scope["root_path"]))
    if handler is None:
        return await respond(send, "no such path", status=404)
    await handler(scope, receive, send, query)


class Namespace:
    """For `plain:nested.app`."""


nested = Namespace()
nested.app = app


def factory():
    """For `plain:factory()`."""
    event("factory called")
    return app
