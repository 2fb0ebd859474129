"""What the web tier can be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from scaleup.config import EndpointField, Flag, NetworkField, Seconds, TierSettings
from scaleup.net.addresses import Endpoint
from scaleup.upstream.healthcheck import HealthCheck
from scaleup.upstream.server_settings import Servers
from scaleup.upstream.settings import CheckMethod, Fall, Inter, Rise, UpstreamSettings
from scaleup.web.tls import read


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


def _certificate(text: str) -> str:
    read(text)
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
    listen_tls: Annotated[tuple[EndpointField, ...], Flag("HOST:PORT", "traffic")] = Field(
        (), description="answer HTTPS here, with the certificates of --tls"
    )
    tls: Annotated[tuple[Annotated[str, AfterValidator(_certificate)], ...], Flag("CERT,KEY", "traffic")] = (
        Field(
            (),
            description="the files of a certificate with its chain, and of its key, in PEM. Of several, the one "
            "that has the name a client asks for is shown; the first to all others. SIGHUP reads them again",
        )
    )
    hsts: Annotated[int, Flag("SECONDS", "traffic")] = Field(
        0,
        ge=0,
        description="tell clients that came by HTTPS to come by nothing else for so long "
        "(Strict-Transport-Security); 0: not told",
    )
    workers: Annotated[int, Flag("N", "this process")] = Field(
        1, ge=1, le=64, description="processes that serve side by side; as many as there are cores is most"
    )
    access_log: Annotated[Literal["off", "common", "combined", "json"], Flag(None, "this process")] = Field(
        "off", description="a line for each request, in NCSA's formats or as a JSON object"
    )
    access_log_file: Annotated[Path | None, Flag("FILE", "this process")] = Field(
        None,
        description="append these lines to a file of their own, as they are (default: to the log, behind its usual "
        "date and name); opened again on SIGUSR2",
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
    error_limit: Annotated[int, Flag("N", "servers")] = Field(
        10,
        ge=0,
        description="so many exchanges in a row that fail bring an application server down, until a check passes; "
        "0: they do not count",
    )
    tries: Annotated[int, Flag("N", "servers")] = Field(
        3, ge=1, le=100, description="try at most so many servers for one request"
    )
    accept_proxy: Annotated[tuple[NetworkField, ...], Flag("NETWORK", "clients")] = Field(
        (),
        description="connections from this network begin with a PROXY header, which names the client; those "
        "without one are refused (a load balancer's --send-proxy)",
    )
    maxconn: Annotated[int, Flag("N", "clients")] = Field(
        4096, ge=1, description="serve at most so many connections at a time, in each worker; others wait"
    )
    source_maxconn: Annotated[int, Flag("N", "clients")] = Field(
        0,
        ge=0,
        description="at most so many of one IPv4 address or IPv6 /64, in each worker; more get a 503; 0: any",
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
        if bool(self.listen_tls) != bool(self.tls):
            raise ValueError(
                "--listen-tls and --tls: one says where, the other with which certificate; say both"
            )
        if self.hsts and not self.listen_tls:
            raise ValueError("--hsts: nobody comes by HTTPS without --listen-tls")
        if both := set(self.listen) & set(self.listen_tls):
            raise ValueError(f"--listen-tls {both.pop()}: HTTP is spoken there (--listen)")
        if self.access_log_file is not None and self.access_log == "off":
            raise ValueError("--access-log-file: say as well in which format, --access-log combined")
        return self
