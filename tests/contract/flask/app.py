"""The link shortener on Flask, gunicorn's threads and PyMySQL, on the tables of scaleup.app, as which it stands in.

docs/app.md and /api/openapi.json describe the interface. It makes no tables, and knows one host of the database.

    DATABASE=mysql://scaleup@127.0.0.1:3306/scaleup DATABASE_PASSWORD=… APP_NAME=flask \\
        gunicorn --worker-class gthread --threads 10 --keep-alive 30 --bind 127.0.0.1:3000 'app:make_app()'
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import secrets
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Flask, Response, request
from links import Problem, as_json, client_address, is_code, new_code, read_key, read_new_link, read_number
from pymysql.err import Error, IntegrityError
from store import DUPLICATE, DatabaseError, KeyReusedError, Store
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, NotFound

MAX_BODY = 16 * 1024
MAX_ID = 2**63 - 1
REQUEST_ID = re.compile(r"[0-9A-Za-z._:/+=-]{1,128}")
DESCRIPTION = (Path(__file__).parents[3] / "scaleup/app/openapi.json").read_bytes()


class Redirect(Response):
    """To a URL as it is: Werkzeug would write it anew, in lower case and escaped."""

    def __init__(self, url: str) -> None:
        super().__init__(status=302, headers={"Location": url, "Cache-Control": "no-store"})

    def get_wsgi_headers(self, environ: Any) -> Headers:
        headers = super().get_wsgi_headers(environ)
        headers["Location"] = self.headers["Location"]
        return headers


def make_app() -> Flask:
    app = Flask(__name__, static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY, PROVIDE_AUTOMATIC_OPTIONS=False)
    app.url_map.merge_slashes = False
    name = os.environ.get("APP_NAME", "flask")
    store = Store(os.environ["DATABASE"], os.environ["DATABASE_PASSWORD"], connections=10)
    clicks = Counter[str]()
    lock = threading.Lock()

    def flush() -> None:
        """Write the clicks that were counted. Those of a transaction that fails are lost, not counted twice."""
        with lock:
            counted = sorted(clicks.items())
            clicks.clear()
        try:
            store.count_clicks(counted)
        except (DatabaseError, Error) as error:
            app.logger.error("clicks are lost: %s", error)

    def keep_flushing() -> None:
        while True:
            time.sleep(1)
            flush()

    threading.Thread(target=keep_flushing, daemon=True).start()
    atexit.register(flush)

    @app.post("/api/links")
    def create() -> Response:
        url, chosen = read_new_link(request)
        key = read_key(request, url, chosen)
        for _ in range(5):
            code, now = chosen or new_code(), datetime.now(UTC)
            link = json.dumps(as_json(code, url, 0, now))
            try:
                if key:
                    link = store.add_once(*key, link, code, url, now)
                else:
                    store.add(code, url, now)
            except KeyReusedError:
                raise Problem(422, "this key came with another request", field="Idempotency-Key") from None
            except IntegrityError as error:
                if error.args[0] != DUPLICATE:
                    raise
                if chosen:
                    raise Problem(409, f"the code {code} is taken", field="code") from None
            else:
                headers = {"Location": f"/api/links/{json.loads(link)['code']}"}
                return Response(link, 201, headers, content_type="application/json")
        raise Problem(503, "no free code was found", {"Retry-After": "1"})

    @app.get("/api/links")
    def page() -> dict[str, Any]:
        limit = read_number(request, "limit", 1, 100, default=20)
        found = store.page(limit + 1, read_number(request, "after", 0, MAX_ID, default=MAX_ID))
        links = found[:limit]
        following = str(links[-1][0]) if len(found) > limit else None
        return {"links": [as_json(*link[1:]) for link in links], "next": following}

    @app.get("/api/links/<code>")
    def show(code: str) -> Response:
        link = store.get(code) if is_code(code) else None
        if link is None:
            raise NotFound(f"there is no link {code!r}")
        body = json.dumps(as_json(*link))
        response = Response(body, content_type="application/json", headers={"Cache-Control": "no-cache"})
        response.set_etag(hashlib.sha256(body.encode()).hexdigest()[:32])
        return response.make_conditional(request)

    @app.delete("/api/links/<code>")
    def delete(code: str) -> Response:
        if not is_code(code) or not store.delete(code):
            raise NotFound(f"there is no link {code!r}")
        return Response(status=204)

    @app.get("/l/<code>")
    def follow(code: str) -> Response:
        url = store.url(code) if is_code(code) else None
        if url is None:
            raise NotFound(f"there is no link {code!r}")
        if request.method != "HEAD":
            with lock:
                clicks[code] += 1
        return Redirect(url)

    @app.get("/api/whoami")
    def whoami() -> dict[str, Any]:
        application = {"name": name, "pid": os.getpid()}
        return {
            "application": application,
            "client": {"address": client_address(request)},
            "database": store.who(),
        }

    @app.get("/api/openapi.json")
    def describe() -> Response:
        return Response(DESCRIPTION, content_type="application/json")

    @app.get("/healthz")
    def healthz() -> Response:
        return Response("ok\n", content_type="text/plain")

    @app.get("/readyz")
    def readyz() -> Response:
        store.ready()
        return Response("ready\n", content_type="text/plain")

    @app.after_request
    def identify(response: Response) -> Response:
        given = request.headers.get("X-Request-Id", "")
        response.headers["X-Request-Id"] = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        response.headers["X-Served-By"] = name
        return response

    @app.errorhandler(Problem)
    def answer_problem(error: Problem) -> Response:
        return problem(error.status, error.detail, error.headers, **error.more)

    @app.errorhandler(DatabaseError)
    def answer_database(error: DatabaseError) -> Response:
        outcome = error.outcome if request.method in ("POST", "DELETE") else "failed"
        return problem(503, f"the database: {error}", {"Retry-After": "1"}, outcome=outcome)

    @app.errorhandler(HTTPException)
    def answer_http(error: HTTPException) -> Response:
        headers = dict(error.get_headers())
        headers.pop("Content-Type")
        return problem(error.code or 500, error.description or error.name, headers)

    return app


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: str) -> Response:
    """RFC 9457."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(json.dumps(body | more), status, headers, content_type="application/problem+json")
