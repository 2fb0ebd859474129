"""Certificates: which one is shown, and files that are none."""

import os
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from scaleup.web.tls import context, find, read


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def pair(folder: Path, authority: trustme.CA, *names: str) -> str:
    made = authority.issue_cert(*names)
    chain, key = folder / f"{names[0]}.pem", folder / f"{names[0]}.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    return f"{chain},{key}"


def test_the_names_are_those_in_it(tmp_path: Path, authority: trustme.CA) -> None:
    certificate = read(pair(tmp_path, authority, "A.test", "*.b.test", "192.0.2.7", "2001:db8::7"))
    assert certificate.names == ("a.test", "*.b.test", "192.0.2.7", "2001:db8::7")
    assert not certificate.has_expired


def test_what_was_read_is_all_that_a_listener_needs(tmp_path: Path, authority: trustme.CA) -> None:
    certificate = read(pair(tmp_path, authority, "a.test"))
    (tmp_path / "both.pem").write_bytes(certificate.pem)
    context([str(tmp_path / "both.pem")])


def test_a_file_is_read_once(tmp_path: Path, authority: trustme.CA) -> None:
    """So workers get what has been found good, whoever replaces the files meanwhile. A pipe gives it once."""
    chain, key = pair(tmp_path, authority, "a.test").split(",")
    out, into = os.pipe()
    with open(out, "rb"):
        with open(into, "wb") as pipe:
            pipe.write(Path(chain).read_bytes())
        assert read(f"/proc/self/fd/{out},{key}").names == ("a.test",)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *(("a.test", 1), ("A.TEST.", 1), ("x.b.test", 2), ("b.test", None), ("x.y.b.test", None)),
        *(("test", None), ("", None), (".b.test", 2), ("special.b.test", 3)),
    ],
)
def test_a_wildcard_stands_for_one_label(name: str, found: int | None) -> None:
    by_name = {"a.test": 1, "*.b.test": 2, "special.b.test": 3}
    assert find(by_name, name) == found  # type: ignore[arg-type, comparison-overlap] # it looks at names only


def test_files_that_are_none_are_refused_with_what_to_do(tmp_path: Path, authority: trustme.CA) -> None:
    chain, key = pair(tmp_path, authority, "a.test").split(",")
    _, other = pair(tmp_path, authority, "b.test").split(",")
    empty = tmp_path / "empty"
    empty.touch()
    encrypted = tmp_path / "encrypted"
    encrypted.write_bytes(
        load_pem_private_key(Path(key).read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    for given, told in {
        chain: "write the files of a certificate and its key",
        f",{key}": "write the files",
        f"{tmp_path}/none,{key}": "none: No such file or directory",
        f"{empty},{key}": "empty: there is no certificate in PEM in it",
        f"{chain},{other}": "they do not belong together",
        f"{chain},{empty}": "there is no key in PEM in it",
        f"{key},{chain}": "there is no certificate in PEM in it",
        f"{chain},{encrypted}": "the key is encrypted: write one without a passphrase",
    }.items():
        with pytest.raises(ValueError, match=told):
            read(given)
