"""The run directory: pids, logs, secrets, a certificate, and the control socket. Nothing of it is kept.

It may lie in /tmp, where everybody can create names, so one that exists must belong to us, and nobody
else may write to it; and it must be empty, or what a killed run has left (our key is made first and removed
last): somebody may name a directory that has `data` and `logs` of another kind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from pathlib import Path

import tomlkit
import trustme

from scaleup.errors import StartupError
from scaleup.stack.plan import Files, proxies_of
from scaleup.stack.settings import UpSettings

_KEY = "vrrp.key"
_FILES = ("site.key", "site.pem", "ca.pem", "lb.toml", "database.password")
_OURS = ("logs", "pids", "data", "control.sock", *_FILES, _KEY)


class RunDir:
    """Made by `open`; removed by `close`, unless somebody has put something in."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def control(self) -> Path:
        return self.path / "control.sock"

    @property
    def authority(self) -> Path:
        """The certificate of who has signed the web servers' one: what a client has to trust."""
        return self.path / "ca.pem"

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def open(self, settings: UpSettings) -> Files:
        """Make it, and the files of this run. Raises StartupError."""
        # Root's database runs as another user, who must be able to pass through; the files are closed.
        mode = 0o711 if os.getuid() == 0 else 0o700
        try:
            self.path.mkdir(mode=mode, parents=True, exist_ok=True)
            self._verify()
            self.path.chmod(mode)
            self._remove_ours()
            made = Files(
                vrrp_key=self.path / _KEY,
                database_password=self.path / "database.password",
                certificate_key=self.path / "site.key",
                certificate=self.path / "site.pem",
                proxies=self.path / "lb.toml",
                data=settings.data or self.path / "data",
            )
            for path in (made.vrrp_key, made.database_password, made.certificate_key):
                path.touch(mode=0o600)
            for path in (made.vrrp_key, made.database_password):
                path.write_text(secrets.token_hex(32))
            self._certify(made, "localhost", str(settings.address(100)))
            made.proxies.write_text(tomlkit.dumps(proxies_of(settings)))
            for name in ("logs", "pids"):
                (self.path / name).mkdir(mode=0o700)
        except OSError as error:
            raise StartupError(f"--run-dir {self.path}: {error.strerror}") from None
        return made

    def _certify(self, files: Files, *names: str) -> None:
        """A certificate for these names, by an authority whose key is forgotten."""
        authority = trustme.CA()
        made = authority.issue_cert(*names)
        made.private_key_pem.write_to_path(files.certificate_key)
        files.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        authority.cert_pem.write_to_path(self.authority)

    def write_pid(self, name: str, pid: int | None) -> None:
        """`pids/NAME.pid`; None removes it."""
        path = self.path / "pids" / f"{name}.pid"
        if pid is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(f"{pid}\n")

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._remove_ours()
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def _verify(self) -> None:
        status = self.path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise StartupError(f"--run-dir {self.path}: not a directory of ours; choose another one")
        if status.st_mode & 0o022:
            raise StartupError(
                f"--run-dir {self.path}: others may write to it; chmod go-w, or choose another one"
            )
        names = {path.name for path in self.path.iterdir()}
        if names and not (_KEY in names and names.issubset(_OURS)):
            raise StartupError(f"--run-dir {self.path}: it has other things in it; use an empty directory")

    def _remove_ours(self) -> None:
        for name in _OURS:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
