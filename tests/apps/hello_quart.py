import asyncio

from quart import Quart

app = Quart(__name__)


@app.get("/")
async def hello():
    return "hello"


@app.get("/slow")
async def slow():
    await asyncio.sleep(2)
    return "slow hello"
