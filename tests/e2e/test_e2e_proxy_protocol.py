"""The PROXY protocol with others: HAProxy or nginx in front of our load balancer, nginx behind it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from e2e.programs import PATIENCE_SECONDS, running
from needs import requires

from bench.ports import free_port

STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), requires("haproxy", "nginx", "curl", STREAM_MODULE)]

FRONT, OURS, WEB = "127.0.85.10", "127.0.85.11", "127.0.85.21"

HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen front
    bind {front}
    server ours {ours} {send} source 127.0.85.10
"""

NGINX_IN_FRONT = """
load_module {module};
daemon off;
pid {folder}/front.pid;
error_log stderr;
{user}
events {{}}
stream {{
    server {{
        listen {front};
        proxy_pass {ours};
        proxy_bind 127.0.85.10;
        proxy_protocol on;
    }}
}}
"""

NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    set_real_ip_from 127.0.0.0/8;
    real_ip_header proxy_protocol;
    server {{
        listen {web} proxy_protocol;
        return 200 "$remote_addr $proxy_protocol_addr $proxy_protocol_server_port";
    }}
}}
"""


def answer(url: str, source: str, *processes: subprocess.Popen[bytes]) -> str:
    """What nginx says of the client, which asks from the address `source`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        said = subprocess.run(
            ["curl", "-s", "-m", "5", "--interface", source, url], capture_output=True, text=True, check=False
        )
        if said.returncode == 0:
            return said.stdout
        for process in processes:
            assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline, f"curl: exit {said.returncode}"


@pytest.mark.parametrize(
    ("program", "send", "told"),
    [
        ("haproxy", "send-proxy", "v1"),
        ("haproxy", "send-proxy-v2", "v2"),
        ("haproxy", "send-proxy-v2 proxy-v2-options crc32c", "v1"),
        ("nginx", "", "v1"),  # it sends v1
        ("nginx", "", "v2"),
    ],
)
def test_the_client_is_known_to_the_last(tmp_path: Path, program: str, send: str, told: str) -> None:
    """curl → a proxy → ours → nginx, which hears from where curl came; health checks say that they are none."""
    front, ours, web = (f"{host}:{free_port(host)}" for host in (FRONT, OURS, WEB))
    user = "user root;" if os.geteuid() == 0 else ""
    in_front = HAPROXY if program == "haproxy" else NGINX_IN_FRONT
    text = in_front.format(
        front=front, ours=ours, send=send, folder=tmp_path, user=user, module=STREAM_MODULE
    )
    (tmp_path / "front").write_text(text)
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, web=web, user=user))
    start_front = {
        "haproxy": ("haproxy", "-db", "-f", f"{tmp_path}/front"),
        "nginx": ("nginx", "-p", f"{tmp_path}", "-c", f"{tmp_path}/front"),
    }
    admin = f"{OURS}:{free_port(OURS)}"
    arguments = ["--listen", ours, "--server", f"web={web}", "--accept-proxy", "127.0.85.0/24"]
    arguments += ["--send-proxy", told, "--health-check", "http:/", "--inter", "0.1", "--admin", admin]
    with (
        running("nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")) as nginx,
        running(sys.executable, "-m", "scaleup.lb", *arguments, "--source", "127.0.85.11") as lb,
        running(*start_front[program]) as proxy,
    ):
        said = answer(f"http://{front}/", "127.0.85.77", nginx, lb, proxy)
        assert said == f"127.0.85.77 127.0.85.77 {front.rpartition(':')[2]}"
        with urllib.request.urlopen(f"http://{admin}/metrics", timeout=20) as response:
            metrics = response.read().decode()
        assert 'scaleup_lb_server_status{proxy="lb",server="web",state="UP"} 1.0' in metrics
        refused = subprocess.run(
            ["curl", "-s", "-m", "2", f"http://{ours}/"], capture_output=True, check=False
        )
        assert refused.returncode != 0, "without a header nobody is served"
