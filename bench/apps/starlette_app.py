"""Starlette with one route."""

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def home(request):
    return PlainTextResponse("Hello from pounce\n")


app = Starlette(routes=[Route("/", home)])
