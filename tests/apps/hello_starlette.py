import asyncio

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def hello(request):
    return PlainTextResponse("hello")


async def slow(request):
    await asyncio.sleep(2)
    return PlainTextResponse("slow hello")


app = Starlette(routes=[Route("/", hello), Route("/slow", slow)])
