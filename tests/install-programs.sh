#!/bin/sh
# Install the Debian programs that the tests use, when we may; else say which are missing.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
missing=""
add() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
add mariadbd mariadb-server
add rsync rsync
[ -e /usr/lib/galera/libgalera_smm.so ] || missing="$missing galera-4"
add chromium chromium
add haproxy haproxy
add nginx nginx-light
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing="$missing libnginx-mod-stream"
[ -e /usr/lib/nginx/modules/ngx_http_brotli_static_module.so ] || missing="$missing libnginx-mod-http-brotli-static"
add ip iproute2
add curl curl
add dnsmasq dnsmasq-base
add keepalived keepalived
add strace strace
add wrk wrk
add hatop hatop
add tshark tshark
add goaccess goaccess
add openssl openssl
add systemctl systemd
add prometheus prometheus
add node nodejs
add npm npm
"${1:-python3}" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "not installed, so their tests are skipped:$missing (run make test as root to install them)"
fi
