"""TLS as Mozilla's "intermediate" recommends it (wiki.mozilla.org/Security/Server_Side_TLS), and whose certificate
is shown.

TLS 1.2 and 1.3, ciphers with forward secrecy and authentication of what is encrypted (ECDHE, AEAD); a client's own
order of them counts, since it knows whether it has AES in hardware. No compression, no renegotiation; ALPN says
http/1.1. A certificate is chosen by the name that a client asks for (SNI, RFC 6066 §3): the names are those in the
certificate itself (RFC 6125), and the first certificate is shown to whoever asks for none, or for another one.

The parent reads the files, once, and hands each worker what it has read: in memory, so that a file that is
replaced, or broken, concerns nobody before a reload has found it good.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
"""Of TLS 1.2; those of 1.3 are all good."""


@dataclass(frozen=True)
class Certificate:
    """`pem`: the chain, the server's own certificate first, and its key. `names`: DNS names and addresses."""

    pem: bytes
    names: tuple[str, ...]
    not_after: datetime

    @property
    def has_expired(self) -> bool:
        return self.not_after < datetime.now(UTC)


def read(pair: str) -> Certificate:
    """From `CERT,KEY`, two files in PEM. Raises ValueError."""
    chain, comma, key = pair.partition(",")
    if not comma or not chain or not key:
        raise ValueError(f"{pair!r}: write the files of a certificate and its key, CERT.pem,KEY.pem")
    pems = {path: _read(path) for path in (chain, key)}
    try:
        own = _first(pems[chain])
    except ValueError:
        raise ValueError(f"{chain}: there is no certificate in PEM in it") from None
    _refuse_bad_key(key, pems[key])
    pem = b"\n".join(pems.values())
    with open(
        os.memfd_create("certificate"), "wb"
    ) as file:  # what was read is what is tried: files may change
        file.write(pem)
        file.flush()
        _load(_context(), f"/proc/self/fd/{file.fileno()}", pair)
    return Certificate(pem, _names(own), own.not_valid_after_utc)


def context(paths: Sequence[str]) -> ssl.SSLContext:
    """For a listener that shows these certificates, each a file in PEM with its key. Raises ValueError."""
    contexts: list[ssl.SSLContext] = []
    by_name: dict[str, ssl.SSLContext] = {}
    for path in paths:
        made = _context()
        _load(made, path, path)
        contexts.append(made)
        for name in _names(_first(Path(path).read_bytes())):
            by_name.setdefault(name, made)

    def choose(connection: ssl.SSLObject, name: str | None, default: ssl.SSLContext) -> None:
        if name is not None and (chosen := find(by_name, name)) is not None:
            connection.context = chosen

    first = contexts[0]
    first.sni_callback = choose
    return first


def find(by_name: Mapping[str, ssl.SSLContext], name: str) -> ssl.SSLContext | None:
    """For a name as it is, or a wildcard that stands for its first label (RFC 6125 §6.4.3)."""
    name = name.lower().rstrip(".")
    return by_name.get(name) or by_name.get("*." + name.partition(".")[2])


def _context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(CIPHERS)
    made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(["http/1.1"])
    return made


def _load(made: ssl.SSLContext, path: str, told: str) -> None:
    """`told`: how the file is called in errors."""
    try:
        made.load_cert_chain(path, password="")  # else OpenSSL asks for one at the terminal
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        reason = "they do not belong together" if mismatch else error.reason or str(error)
        raise ValueError(f"{told}: {reason}") from None
    except OSError as error:
        raise ValueError(f"{told}: {error.strerror}") from None


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _refuse_bad_key(path: str, pem: bytes) -> None:
    """OpenSSL says `PEM lib` of all that can be wrong."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError(f"{path}: the key is encrypted: write one without a passphrase") from None
    except ValueError:
        raise ValueError(f"{path}: there is no key in PEM in it") from None


def _first(pem: bytes) -> x509.Certificate:
    from cryptography import x509  # takes a fifth of a process's start: only if it is wanted

    return x509.load_pem_x509_certificate(pem)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    names = found.get_values_for_type(x509.DNSName)
    addresses = found.get_values_for_type(x509.IPAddress)
    return (*(name.lower() for name in names), *map(str, addresses))
