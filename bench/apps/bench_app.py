"""The applications that every server is given, one for each workload. They do no more than the workload asks for."""

import asyncio
import json

HELLO = b"Hello from pounce\n"
LARGE = b"0123456789" * 10_240  # 100 KiB
CHUNK = b"x" * 99 + b"\n"
CHUNKS = 2_000

TEXT = (b"content-type", b"text/plain; charset=utf-8")


def start(length, kind=TEXT):
    return {"type": "http.response.start", "status": 200, "headers": [kind, (b"content-length", b"%d" % length)]}


async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def hello(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"18")],
        }
    )
    await send({"type": "http.response.body", "body": HELLO})


async def echo(scope, receive, send):
    """Reads a JSON document, and writes it again."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    document = json.loads(body)
    answer = json.dumps(document, separators=(",", ":")).encode()
    await send(start(len(answer), (b"content-type", b"application/json")))
    await send({"type": "http.response.body", "body": answer})


async def sleep(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await asyncio.sleep(0.001)
    await send(start(len(HELLO)))
    await send({"type": "http.response.body", "body": HELLO})


async def large(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await send(start(len(LARGE), (b"content-type", b"application/octet-stream")))
    await send({"type": "http.response.body", "body": LARGE})


async def upload(scope, receive, send):
    """Reads the body and answers with its length."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    length = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message["body"])
        more = message.get("more_body", False)
    answer = b"%d\n" % length
    await send(start(len(answer)))
    await send({"type": "http.response.body", "body": answer})


async def stream(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
    message = {"type": "http.response.body", "body": CHUNK, "more_body": True}
    for _ in range(CHUNKS):
        await send(message)
    await send({"type": "http.response.body", "body": b""})
