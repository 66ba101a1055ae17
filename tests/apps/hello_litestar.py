import asyncio

from litestar import Litestar, MediaType, get


@get("/", media_type=MediaType.TEXT)
async def hello() -> str:
    return "hello"


@get("/slow", media_type=MediaType.TEXT)
async def slow() -> str:
    await asyncio.sleep(2)
    return "slow hello"


app = Litestar([hello, slow])
