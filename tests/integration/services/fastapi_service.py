"""FastAPI on uvicorn as its documentation shows it: `uvicorn fastapi_service:app`."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, File, Form, Request, Response, UploadFile, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

#: Seconds of silence in a stream of events.
SILENCE = 1.5

app = FastAPI()
app.add_middleware(GZipMiddleware, minimum_size=1000)
app.add_middleware(
    CORSMiddleware,
    allow_origins=[os.environ["ORDINARY_ORIGIN"]],
    allow_credentials=True,
    allow_methods=["*"],
    allow_headers=["*"],
    expose_headers=["X-Total"],
)
app.mount("/static", StaticFiles(directory=Path(__file__).parent, html=True), name="static")


@app.get("/items/")
async def items() -> list[str]:
    """Starlette sends `/items` here."""
    return ["a", "b"]


@app.get("/items/{name}")
async def item(name: str, request: Request, response: Response) -> dict[str, object]:
    """Tell what the application takes the request for."""
    response.headers["X-Total"] = "1"
    return {
        "name": name,
        "url": str(request.url),
        "base": str(request.base_url),
        "url_for": str(request.url_for("items")),
        "client": request.client.host if request.client else None,
    }


@app.get("/moved")
async def moved(request: Request) -> RedirectResponse:
    return RedirectResponse(request.url_for("items"))


@app.post("/upload")
async def upload(file: Annotated[UploadFile, File()], note: Annotated[str, Form()]) -> dict[str, object]:
    content = await file.read()
    digest = hashlib.sha256(content).hexdigest()
    return {"name": file.filename, "size": len(content), "sha256": digest, "note": note}


@app.post("/body")
async def body(request: Request) -> dict[str, object]:
    digest, size = hashlib.sha256(), 0
    async for chunk in request.stream():
        digest.update(chunk)
        size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest(), "type": request.headers.get("content-type")}


@app.get("/events")
async def events() -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        yield "data: first\n\n"
        await asyncio.sleep(SILENCE)
        yield "data: second\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


@app.get("/long")
async def long() -> str:
    return "compress me " * 1000


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[0] if offered else None)
    await websocket.send_text(f"{websocket.url} {websocket.headers.get('origin')}")
    async for text in websocket.iter_text():
        await websocket.send_text(text)
