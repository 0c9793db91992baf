"""The page: `/` and the files beside it, also under `/page/`. Its own links are relative, so both places work."""

from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

import service

FOLDER = Path(service.__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    # Small files that change with a release: ask each time, answer 304.
    "Cache-Control": "no-cache",
    # The page holds a key: nothing runs on it but its own files, nothing leaves it but to its own service.
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


FILES = {path.name: path for path in FOLDER.iterdir() if path.is_file()}


def is_page(path: str) -> bool:
    """Return whether a path leads to the page or a file of it."""
    return path in ("/", "/page") or path.removeprefix("/page").removeprefix("/") in ("", *FILES)


def install(app: FastAPI) -> None:
    """Serve the page's files, and only those."""

    async def serve(page_file: str = "index.html") -> Response:
        if page_file not in FILES:
            raise HTTPException(404)
        return FileResponse(FILES[page_file], headers=HEADERS)

    for path in ("/", "/{page_file}"):
        app.add_api_route(path, serve, methods=["GET", "HEAD"], include_in_schema=False, response_class=FileResponse)
    app.mount("/page", StaticFiles(directory=FOLDER, html=True), name="page")
