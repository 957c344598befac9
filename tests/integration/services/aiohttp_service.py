"""aiohttp's server: `python aiohttp_service.py PORT`. `/echo/...` tells what has come."""

import asyncio
import hashlib
import sys

from aiohttp import WSMsgType, web


async def echo(request: web.Request) -> web.Response:
    """Tell what the service got: the request line's target, all fields and the body."""
    content = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "path": request.path,
            "query": request.query_string,
            "fields": [[name, value] for name, value in request.headers.items()],
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "body": content[:1000].decode("latin-1"),
        }
    )


async def cookies(_request: web.Request) -> web.Response:
    response = web.Response(text="set")
    response.set_cookie("one", "1", path="/")
    response.set_cookie("two", "2", path="/", httponly=True, samesite="Lax")
    return response


async def redirect(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/echo/arrived")


async def status(request: web.Request) -> web.Response:
    return web.Response(status=int(request.match_info["code"]))


async def websocket(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse(protocols=("chat",))
    await response.prepare(request)
    async for message in response:
        if message.type is WSMsgType.TEXT:
            await response.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await response.send_bytes(message.data)
    return response


async def drip(request: web.Request) -> web.StreamResponse:
    """Answer in parts of no known length."""
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(5):
        await response.write(b"part %d\n" % number)
        await asyncio.sleep(0.01)
    return response


def application() -> web.Application:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_get("/cookies", cookies)
    app.router.add_get("/redirect", redirect)
    app.router.add_get("/status/{code}", status)
    app.router.add_get("/ws", websocket)
    app.router.add_get("/drip", drip)
    app.router.add_route("*", "/echo{rest:.*}", echo)
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
