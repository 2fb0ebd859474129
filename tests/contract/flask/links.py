"""What a link is: which URLs, codes and keys a request may have, and how a link looks as JSON."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from flask import Request

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
CODE = re.compile(r"[A-Za-z0-9_-]{1,32}")
KEY = re.compile(r"\"([!#-\[\]-~]{1,255})\"|([!#-\[\]-~]{1,255})")
URL = re.compile(r"(?i:https?)://[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")  # RFC 3986

PRIVATE = [
    ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
]
"""Where proxies are believed. (`is_private` has the networks for documentation as well.)"""


class Problem(Exception):
    """The request cannot be done. `more`: further members of its JSON."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers, more


def is_code(text: str) -> bool:
    return CODE.fullmatch(text) is not None


def new_code() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(7))


def read_new_link(request: Request) -> tuple[str, str | None]:
    if request.mimetype != "application/json" or "Content-Encoding" in request.headers:
        raise Problem(415, "send application/json, not compressed", {"Accept-Post": "application/json"})
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Problem(400, "the body must be a JSON object")
    for member in body.keys() - {"url", "code"}:
        raise Problem(400, f"there is no member {member!r}", field=member)
    url, code = body.get("url"), body.get("code")
    if not is_url(url):
        raise Problem(400, "url must be one of http or https, without a user name", field="url")
    if code is not None and not (isinstance(code, str) and is_code(code)):
        raise Problem(400, "code must be 1 to 32 of A-Z, a-z, 0-9, _ and -", field="code")
    return url, code


def is_url(url: object) -> bool:
    if not isinstance(url, str) or len(url) > 2048 or not URL.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        return False


def read_key(request: Request, url: str, code: str | None) -> tuple[str, str] | None:
    """An Idempotency-Key and the fingerprint of what it came with."""
    if (header := request.headers.get("Idempotency-Key")) is None:
        return None
    if (found := KEY.fullmatch(header)) is None:
        raise Problem(400, "a key is 1 to 255 visible ASCII characters", field="Idempotency-Key")
    canonical = json.dumps({"code": code, "url": url}, separators=(",", ":"))
    return found[1] or found[2], hashlib.sha256(canonical.encode()).hexdigest()


def read_number(request: Request, name: str, least: int, most: int, default: int) -> int:
    if (text := request.args.get(name)) is None:
        return default
    if not re.fullmatch("[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise Problem(400, f"{name} must be a number from {least} to {most}", field=name)
    return int(text)


def as_json(code: str, url: str, clicks: int, created: datetime) -> dict[str, Any]:
    text = created.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return {"code": code, "url": url, "short": f"/l/{code}", "clicks": clicks, "created": text}


def client_address(request: Request) -> str:
    """The last in X-Forwarded-For that no private proxy wrote of another one."""
    believed = ip_address(request.remote_addr or "")
    for said in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
        if not any(believed in network for network in PRIVATE):
            break
        try:
            believed = ip_address(said.strip())
        except ValueError:
            break
    return str(believed)
