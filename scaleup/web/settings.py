"""What the web tier can be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from scaleup.config import EndpointField, Flag, NetworkField, Seconds, TierSettings
from scaleup.net.addresses import Endpoint
from scaleup.upstream.healthcheck import HealthCheck
from scaleup.upstream.server_settings import Servers
from scaleup.upstream.settings import CheckMethod, Fall, Inter, Rise, UpstreamSettings


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError(f"{str(path)!r} is not a folder: name the one that has your index.html")
    return path


def _prefix(text: str) -> str:
    if not text.startswith("/") or not text.endswith("/") or not text.isascii():
        raise ValueError(f"{text!r} is not a prefix: write a path that begins and ends with /, like /api/")
    return text


def _file_path(text: str) -> str:
    if not text.startswith("/") or text.endswith("/") or not text.isascii():
        raise ValueError(f"{text!r} is not the path of a file: write /index.html")
    return text


def _error_page(text: str) -> str:
    status, _, path = text.partition("=")
    if not re.fullmatch("[45][0-9][0-9]", status):
        raise ValueError(f"{text!r}: write a status and a file, such as 404=/404.html")
    _file_path(path)
    return text


def _caching(text: str) -> str:
    pattern, _, value = text.partition("=")
    if not pattern.startswith("/") or not value:
        raise ValueError(f"{text!r}: write a pattern and a value, such as '/assets/*=max-age=3600'")
    _one_line(value)
    return text


def _one_line(text: str) -> str:
    if not text.isascii() or not (text.isprintable() or not text):
        raise ValueError("a header field's value is one line of ASCII")
    return text


class WebSettings(TierSettings, UpstreamSettings):
    """The web tier: serves files, and forwards what is below some prefixes to application servers."""

    tier: ClassVar[str] = "web"
    examples: ClassVar[str] = (
        "  python -m scaleup.web --listen 0.0.0.0:8080 --root ./site --app 10.0.0.31:3000 --app 10.0.0.32:3000\n"
        "  python -m scaleup.web --config cluster.toml --node web1"
    )

    listen: Annotated[tuple[EndpointField, ...], Flag("HOST:PORT", "traffic")] = Field(
        (Endpoint("0.0.0.0", 8080),), min_length=1, description="answer HTTP here"
    )
    root: Annotated[Annotated[Path, AfterValidator(_folder)] | None, Flag("DIR", "traffic")] = Field(
        None, description="serve the files below this folder (default: no files)"
    )
    fallback: Annotated[Annotated[str, AfterValidator(_file_path)] | None, Flag("PATH", "traffic")] = Field(
        None,
        description="serve this file for whatever is absent, as a site of one page wants it: /index.html",
    )
    error_page: Annotated[
        tuple[Annotated[str, AfterValidator(_error_page)], ...], Flag("STATUS=PATH", "traffic")
    ] = Field((), description="show people this file with an error of this status: 404=/404.html")
    cache_control: Annotated[
        tuple[Annotated[str, AfterValidator(_caching)], ...], Flag("PATTERN=VALUE", "traffic")
    ] = Field(
        (),
        description="the Cache-Control of files whose path matches (the first counts; default: no-cache), such as "
        "'/assets/*=public, max-age=31536000, immutable' for names that change with their content",
    )
    app: Annotated[Servers, Flag("[NAME=]HOST:PORT", "traffic")] = Field(
        (), description="an application server; with ,weight=N and ,maxconn=N if you like"
    )
    prefix: Annotated[tuple[Annotated[str, AfterValidator(_prefix)], ...], Flag("PATH", "traffic")] = Field(
        ("/api/", "/l/"), description="forward what is below this path to the application servers"
    )
    trusted_proxy: Annotated[tuple[NetworkField, ...], Flag("NETWORK", "traffic")] = Field(
        (),
        description="believe the X-Forwarded fields of peers in this network (default: nobody's). A load "
        "balancer that works on TCP passes its clients' fields through unread: do not name it here",
    )
    content_security_policy: Annotated[
        Annotated[str, AfterValidator(_one_line)], Flag("POLICY", "traffic")
    ] = Field(
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
        description="the policy sent with files; empty: none",
    )
    health_check: CheckMethod = HealthCheck("http", "/readyz")
    # Faster than a load balancer's defaults: /readyz fails on all applications at once while the database is
    # away, and their return must be seen soon. A server that is wrongly up costs a request one more try.
    inter: Inter = 0.5
    rise: Rise = 1
    fall: Fall = 2
    connect_timeout: Annotated[Seconds, Flag("SECONDS", "servers")] = Field(
        2.0, description="an application server that takes longer to accept has failed"
    )
    response_timeout: Annotated[Seconds, Flag("SECONDS", "servers")] = Field(
        30.0, description="wait so long for an application's response, and between two pieces of it"
    )
    tunnel_timeout: Annotated[Seconds, Flag("SECONDS", "servers")] = Field(
        3600.0, description="close a connection that was upgraded (WebSocket) when nothing moved for so long"
    )
    app_keepalive: Annotated[Seconds, Flag("SECONDS", "servers")] = Field(
        4.0,
        description="close a connection to an application that is idle for so long; keep it below the "
        "application's own (Node's is 5)",
    )
    tries: Annotated[int, Flag("N", "servers")] = Field(
        3, ge=1, le=100, description="try at most so many servers for one request"
    )
    max_body: Annotated[int, Flag("BYTES", "clients")] = Field(
        16 * 1024 * 1024, ge=0, description="refuse requests with a larger body (413)"
    )
    keepalive: Annotated[Seconds, Flag("SECONDS", "clients")] = Field(
        15.0, description="close a connection that is idle, or has not sent a whole head, for so long"
    )
    body_timeout: Annotated[Seconds, Flag("SECONDS", "clients")] = Field(
        10.0, description="how long a client may be slower with its body than 1 KiB/s in total (408)"
    )
    send_timeout: Annotated[Seconds, Flag("SECONDS", "clients")] = Field(
        30.0, description="cut off a client that stays behind with its response for so long"
    )

    @model_validator(mode="after")
    def _can_check(self) -> Self:
        self.refuse_contradictions()
        return self
