"""HTTPS from outside: the real process, Python's and OpenSSL's clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import requires
from web.outside import Address, Process, answers, exchange, metrics, until, web
from web.recorder import Recorder, whole
from web.secure import Authority, names_of, rest, secure_port

from bench.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60), pytest.mark.keeps_connections]

REFUSED = 'connections_refused_total{reason="tls"}'
BIG = os.urandom(10 * 1024 * 1024)


class Site:
    def __init__(
        self, process: Process, plain: Address, tls: Address, admin: int, authority: Authority, folder: Path
    ) -> None:
        self.process, self.plain, self.tls, self.authority = process, plain, tls, authority
        self.folder = folder
        self._admin = admin

    def metric(self, name: str) -> float:
        return metrics(("127.0.0.1", self._admin)).get(f"scaleup_web_{name}", 0.0)

    def reload(self) -> str:
        """Returns what it says at the end."""
        said = len(self.process.log)
        self.process.process.send_signal(signal.SIGHUP)
        return self.process.said(r"\breloaded|not reloaded", after=said)[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, application: Recorder) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("site"), application) as running:
        yield running


@pytest.fixture
def fresh_site(tmp_path: Path, application: Recorder) -> Iterator[Site]:
    """Of a test that counts, or changes it."""
    with serving(tmp_path, application) as running:
        yield running


@contextlib.contextmanager
def serving(folder: Path, application: Recorder) -> Iterator[Site]:
    (folder / "root").mkdir()
    (folder / "root" / "big").write_bytes(BIG)
    (folder / "root" / "small").write_text("small")
    authority, tls, admin = Authority(folder), secure_port(), free_port()
    flags = (
        *("--listen-tls", f"127.0.0.1:{tls[1]}", "--admin", f"127.0.0.1:{admin}"),
        *(
            "--tls",
            authority.pair("site", "site.test"),
            "--tls",
            authority.pair("other", "*.other.test", "third.test"),
        ),
        *("--root", str(folder / "root"), "--hsts", "3600", "--keepalive", "4"),
        *("--app", f"app1={application.address}", "--health-check", "tcp"),
    )
    with web(*flags) as (process, plain):
        yield Site(process, plain, tls, admin, authority, folder)
        assert not [said for said in process.log if "Traceback" in said], "".join(process.log)


def test_files_forwarded_requests_and_what_the_application_is_told(site: Site, application: Recorder) -> None:
    application.forget()
    received = site.authority.ask(site.tls, "GET /small HTTP/1.1")
    (answer,) = answers(received, "GET")
    assert (answer.status, answer.body) == (200, b"small")
    assert answer.value("strict-transport-security") == "max-age=3600"
    (plain,) = answers(
        exchange(site.plain, b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), "GET"
    )
    assert plain.value("strict-transport-security") == ""
    (answer,) = answers(site.authority.ask(site.tls, "GET /api/x HTTP/1.1"), "GET")
    assert answer.body == b"hello"
    (request,) = [one for data in application.recorded() for one in whole(data) if b"/api/x" in one.line]
    assert dict(request.fields)[b"x-forwarded-proto"] == b"https"


def test_a_large_file_and_ranges_of_it(site: Site) -> None:
    (answer,) = answers(site.authority.ask(site.tls, "GET /big HTTP/1.1"), "GET")
    assert answer.body == BIG
    received = site.authority.ask(site.tls, "GET /big HTTP/1.1", "Range: bytes=5000000-7000000")
    (part,) = answers(received, "GET")
    assert (part.status, part.body) == (206, BIG[5000000:7000001])


def test_which_certificate_is_shown(site: Site) -> None:
    for asked, shown in {
        "site.test": {"site.test"},
        "a.other.test": {"*.other.test", "third.test"},
        "third.test": {"*.other.test", "third.test"},
    }.items():
        with site.authority.connected(site.tls, asked) as tls:
            assert names_of(tls) == shown
            assert tls.selected_alpn_protocol() == "http/1.1"
    for stranger in ("a.b.other.test", "nobody.test", "other.test", None):
        with site.authority.connected(site.tls, stranger, check_hostname=False) as tls:
            assert names_of(tls) == {"site.test"}, stranger


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_that_are_spoken(site: Site, version: ssl.TLSVersion) -> None:
    with site.authority.connected(site.tls, minimum_version=version, maximum_version=version) as tls:
        assert tls.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        cipher = tls.cipher()
        assert cipher is not None
        assert re.search("GCM|CHACHA20", cipher[0])


@requires("openssl")
def test_nothing_weaker_is(site: Site) -> None:
    """Asked by OpenSSL with its lowest security level, so that it is not the client who refuses."""

    def connects(*how: str) -> bool:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.tls[1]}", *how]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)
        return b"Cipher is (NONE)" not in done.stdout and b"Cipher is " in done.stdout

    assert connects("-tls1_2", "-cipher", "ECDHE+AESGCM:@SECLEVEL=0")
    for old in ("-tls1", "-tls1_1"):
        assert not connects(old, "-cipher", "ALL:@SECLEVEL=0")
    for weak in ("AES128-GCM-SHA256", "ECDHE+AES+SHA256", "DHE+AESGCM", "3DES", "RC4", "aNULL"):
        assert not connects("-tls1_2", "-cipher", f"{weak}:@SECLEVEL=0"), weak


@requires("openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_session_is_resumed(site: Site, tmp_path: Path, version: str) -> None:
    for kept, said in (("-sess_out", "New"), ("-sess_in", "Reused")):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.tls[1]}", "-servername", "third.test"]
        command += [version, "-ign_eof", kept, str(tmp_path / "session")]
        asked = b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        done = subprocess.run(command, input=asked, capture_output=True, timeout=20, check=True)
        assert f"\n{said}, TLSv1.{version[-1]}, Cipher".encode() in done.stdout
        assert b"\r\n\r\nsmall" in done.stdout


@requires("openssl")
def test_a_client_that_renegotiates_is_told_no(site: Site) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.tls[1]}", "-tls1_2"]
    done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=20, check=False)
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stderr


def test_who_speaks_no_tls_is_closed_and_counted(fresh_site: Site) -> None:
    site = fresh_site
    assert not exchange(site.tls, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP")
    exchange(site.tls, b"\x16\x03\x01" + bytes(500))
    exchange(site.tls)  # says nothing, and is closed after --keepalive
    assert answers(site.authority.ask(site.tls, "GET /small HTTP/1.1"), "GET")
    until(lambda: site.metric(REFUSED) == 3, "they are counted")


def test_many_requests_on_one_connection(site: Site) -> None:
    with site.authority.connected(site.tls) as tls:
        small = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n"
        tls.sendall(3 * small + b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        found = answers(rest(tls), "GET", "GET", "GET", "GET")
        assert [len(one.body) for one in found] == [5, 5, 5, len(BIG)]


def shown(site: Site) -> set[str]:
    with site.authority.connected(site.tls) as tls:
        return names_of(tls)


def test_new_certificates_are_shown_after_a_reload_and_bad_ones_change_nothing(fresh_site: Site) -> None:
    site = fresh_site
    with site.authority.connected(site.tls) as before:
        assert names_of(before) == {"site.test"}
    site.authority.pair("site", "site.test", "new.test")
    assert "not reloaded" not in site.reload()
    until(lambda: shown(site) == {"site.test", "new.test"}, "those who served before accept no more")
    expires = site.metric('certificate_not_after_seconds{names="site.test new.test"}')
    assert expires > time.time()
    (site.folder / "site.key").write_text("broken")
    assert "not reloaded" in site.reload()
    assert site.process.said("site.key: there is no key in PEM in it")
    assert shown(site) == {"site.test", "new.test"}
