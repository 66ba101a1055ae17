"""The signals that are blocked in a process of the application's, at import and in a request."""

import subprocess


def blocked():
    return subprocess.run(["grep", "SigBlk", "/proc/self/status"], check=True, capture_output=True).stdout


AT_IMPORT = blocked()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": AT_IMPORT + blocked()})
