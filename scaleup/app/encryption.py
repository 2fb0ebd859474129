"""TLS to the database, with MySQL's words for how much of it.

    disabled          none
    required          encrypted, to whoever answers
    verify_ca         its certificate is signed by an authority that we trust
    verify_identity   and is that host's

aiomysql goes on in plain text, password and all, when a server does not offer TLS: who is in between need only say
so. Here that is the end of the connection.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Literal

import aiomysql
from pymysql.constants import CLIENT
from pymysql.err import OperationalError

SslMode = Literal["disabled", "required", "verify_ca", "verify_identity"]

NO_TLS = 2026  # CR_SSL_CONNECTION_ERROR


class Connection(aiomysql.Connection):  # type: ignore[misc] # aiomysql has no types
    """With `ssl`, it is spoken."""

    async def _request_authentication(self) -> Any:
        if self._ssl_context and not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(NO_TLS, "it offers no TLS, which --database-ssl-mode asks for")
        return await super()._request_authentication()


def context(mode: SslMode, authorities: Path | None) -> ssl.SSLContext | None:
    """`authorities`: certificates in PEM; None: those that the system trusts. Raises OSError and ssl.SSLError."""
    if mode == "disabled":
        return None
    made = ssl.create_default_context(cafile=authorities)
    if mode != "verify_identity":
        made.check_hostname = False
    if mode == "required":
        made.verify_mode = ssl.CERT_NONE
    return made
