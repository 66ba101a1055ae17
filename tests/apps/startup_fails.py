"""Answers `lifespan.startup` with a failure, or raises in it."""


async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database at db.internal:5432"})


async def raises(scope, receive, send):
    """With `--lifespan on` this is a failed start."""
    assert scope["type"] == "lifespan"
    await receive()
    raise RuntimeError("raised in lifespan.startup")
