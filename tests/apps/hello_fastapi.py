import asyncio
import time

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()


@app.get("/", response_class=PlainTextResponse)
def hello():
    # Not async: runs in anyio's thread pool.
    return "hello"


@app.get("/slow", response_class=PlainTextResponse)
async def slow():
    await asyncio.sleep(2)
    return "slow hello"


@app.get("/slow-in-a-thread", response_class=PlainTextResponse)
def slow_in_a_thread():
    time.sleep(2)
    return "slow hello"
