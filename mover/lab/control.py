"""The lab's own port: faults, the call log, the administrator, the guests. Plain HTTP, loopback only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from mover.errors import MoverError, UsageError
from mover.lab.faults import STAGES, Fault, Faults
from mover.lab.gateway import Logged

Act = Callable[[dict[str, Any]], Awaitable[Any]]


def control_application(
    faults: Faults, calls: Callable[[], list[Logged]], act: Act, live: Act, describe: Callable[[], dict[str, Any]]
) -> web.Application:
    """Routes: /lab, /lab/faults[/number], /lab/calls, /lab/administrator, /lab/live."""

    async def show(_request: web.Request) -> web.Response:
        return web.json_response(describe())

    async def menu(_request: web.Request) -> web.Response:
        return web.json_response({"armed": [one.model_dump() for one in faults.armed()], "menu": STAGES})

    async def arm(request: web.Request) -> web.Response:
        try:
            fault = Fault.model_validate(await request.json())
        except ValidationError as error:
            raise UsageError(f"That is no fault: {error}", remedy="See GET /lab/faults.") from None
        return web.json_response(faults.add(fault).model_dump(), status=201)

    async def disarm(request: web.Request) -> web.Response:
        number = request.match_info.get("number")
        faults.disarm(int(number) if number else None)
        return web.json_response({})

    async def log(_request: web.Request) -> web.Response:
        return web.json_response([asdict(one) for one in calls()])

    async def administer(request: web.Request) -> web.Response:
        await act(await request.json())
        return web.json_response({})

    async def change(request: web.Request) -> web.Response:
        return web.json_response({"changed": await live(await request.json())})

    application = web.Application(middlewares=[_explained])
    application.add_routes(
        [
            web.get("/lab", show),
            web.get("/lab/faults", menu),
            web.post("/lab/faults", arm),
            web.delete("/lab/faults", disarm),
            web.delete(r"/lab/faults/{number:\d+}", disarm),
            web.get("/lab/calls", log),
            web.post("/lab/administrator", administer),
            web.post("/lab/live", change),
        ]
    )
    return application


@web.middleware
async def _explained(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except MoverError as error:
        return web.json_response(error.as_dict(), status=400)
    except ValueError as error:
        return web.json_response({"message": f"The body is not what it should be: {error}"}, status=400)
