"""What users see, from end to end: the same test for whatever serves."""

from __future__ import annotations

import http.client
import json

TARGET = "http://example.com/swap"
SECONDS = 20.0


def ask(host: str, method: str, path: str, body: object = None) -> tuple[int, http.client.HTTPMessage, bytes]:
    """A request on a connection of its own; a body that is not bytes is sent as JSON.

    Raises OSError and http.client.HTTPException.
    """
    connection = http.client.HTTPConnection(host, timeout=SECONDS)
    try:
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def assert_serves(host: str, served_by: str = "", client: str = "") -> None:
    """The page; a link made, found, followed and deleted.

    `host`: HOST:PORT; `served_by`: part of X-Served-By; `client`: the address that the application sees.
    """
    status, _, page = ask(host, "GET", "/")
    assert (status, b"<html" in page) == (200, True)
    status, headers, body = ask(host, "POST", "/api/links", {"url": TARGET})
    assert status == 201, body
    assert served_by in headers["X-Served-By"]
    code = json.loads(body)["code"]
    status, _, body = ask(host, "GET", f"/api/links/{code}")
    assert (status, json.loads(body)["url"]) == (200, TARGET)
    status, headers, _ = ask(host, "GET", f"/l/{code}")
    assert (status, headers["Location"]) == (302, TARGET)
    status, _, _ = ask(host, "DELETE", f"/api/links/{code}")
    assert status == 204
    if client:
        _, _, body = ask(host, "GET", "/api/whoami")
        assert json.loads(body)["client"]["address"] == client
