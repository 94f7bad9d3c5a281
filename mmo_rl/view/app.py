"""Web application of `task=view`: the viewer's pages, read-only, for this machine or for those who hold the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response

from mmo_rl.errors import MmoRlError
from mmo_rl.view.library import Library, NotThere
from mmo_rl.view.pages import error_page, run_page, runs_page, trajectory_page, window_page, windows_page
from mmo_rl.view.places import Place

COOKIE = "mmo_rl_view"
POLICY = (
    "default-src 'none'; style-src 'self'; style-src-attr 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content security policy: nothing but the viewer's own style sheet and script is loaded or executed."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
ASSETS = {"view.css": "text/css", "view.js": "text/javascript"}
FOLDER = Path(__file__).parent


def create_app(library: Library, *, token: str | None = None, hosts: frozenset[str] | None = None) -> FastAPI:
    """Makes the application. ``token``: asked for once as ``?token=``, then kept in a cookie (None: nobody is asked).
    ``hosts``: names that a request's ``Host`` may have (None: any)."""
    app = FastAPI(title="mmo_rl", docs_url=None, redoc_url=None, openapi_url=None)

    def url(place: Place) -> str:
        return place.url()

    @app.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuses strangers, and gives every answer its headers."""
        response = _refusal(request, token, hosts) or await call(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(MmoRlError)
    async def failed(request: Request, error: MmoRlError) -> Response:
        hint = f" ({error.hint})" if error.hint else ""
        return HTMLResponse(error_page(error.message + hint, url), 404 if isinstance(error, NotThere) else 500)

    @app.get("/")
    async def runs(page: int = Query(0, ge=0, le=10**6), find: str = "") -> Response:
        return HTMLResponse(runs_page(library.runs(), url, page=page, find=find))

    @app.get("/runs/{name}/{key}")
    async def run(name: str, key: str, page: int = Query(0, ge=0, le=10**6), find: str = "") -> Response:
        return HTMLResponse(run_page(library, (name, key), url, page=page, find=find))

    @app.get("/windows")
    async def windows(page: int = Query(0, ge=0, le=10**6), find: str = "") -> Response:
        return HTMLResponse(windows_page(await library.windows(), library.rules, url, page=page, find=find))

    @app.get("/windows/{group:path}")
    async def window(group: str, agent: str | None = None) -> Response:
        return await _window(library, Place(group=group, trajectory=agent))

    @app.get("/runs/{name}/{key}/windows/{group:path}")
    async def judged_window(name: str, key: str, group: str, agent: str | None = None) -> Response:
        return await _window(library, Place(run=(name, key), group=group, trajectory=agent))

    @app.get("/{name}")
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            return HTMLResponse(error_page(f"there is no page /{name}", url), 404)
        return FileResponse(FOLDER / name, media_type=ASSETS[name])

    return app


async def _window(library: Library, place: Place) -> Response:
    assert place.group is not None
    if place.run is None:
        seen = await library.recorded_group(place.group)
    else:
        seen = await library.judged_group(place.run, place.group)
    if place.trajectory is None:
        return HTMLResponse(window_page(library, seen, place, Place.url))
    return HTMLResponse(trajectory_page(library, seen, place, Place.url))


def _refusal(request: Request, token: str | None, hosts: frozenset[str] | None) -> Response | None:
    """Returns the answer to a request that is let no further; None where it is."""
    host = request.url.hostname or ""
    if hosts is not None and host.lower() not in hosts:
        return PlainTextResponse("This viewer answers to its own address only; view.host names another.", 421)
    if token is None:
        return None
    given = request.query_params.get("token")
    if given is not None and hmac.compare_digest(given.encode(), token.encode()):
        left = "&".join(f"{quote(k)}={quote(v)}" for k, v in request.query_params.multi_items() if k != "token")
        response = RedirectResponse(request.url.path + (f"?{left}" if left else ""), 303)
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return response
    if hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), token.encode()):
        return None
    return PlainTextResponse("This viewer asks for its token: open the address that it printed.", 401)
