"""One bare FastAPI route under uvicorn: `python -m benchmarks.http.bare PORT`."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.http.picture import answer

app = FastAPI()


class Body(BaseModel):
    """What a client sends."""

    prompt: str
    n: int = 1
    seed: int | None = None
    cache: dict[str, str] | None = None


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    """Answer."""
    return {"status": "ok"}


@app.post("/v1/images/generations")
async def generate(body: Body) -> dict[str, Any]:
    """Return the picture."""
    return answer()


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
