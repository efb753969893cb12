"""Which proxy gRPC takes to a server. It never takes one to this machine, whatever the environment says: kdx switches
it off there."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

# gRPC reads these, in this order and in lower case alone (doc/environment_variables.md of grpc/grpc)
VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def is_loopback(address: str) -> bool:
    """Whether `host:port` is this machine: localhost, 127.0.0.0/8 or ::1."""
    host = _host(address)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def proxy_to(address: str) -> str | None:
    """The proxy on the way to `host:port`, without its password, and the variable that names it; None for none."""
    if is_loopback(address):
        return None
    found = next(((name, os.environ[name]) for name in VARIABLES if os.environ.get(name)), None)
    if found is None or _is_excepted(_host(address)):
        return None
    variable, url = found
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return f"{parts.netloc.rpartition('@')[2]} ({variable})"


def _is_excepted(host: str) -> bool:
    entries = next((os.environ[name] for name in EXCEPTIONS if os.environ.get(name)), "")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = None
    for entry in (entry.strip().lower() for entry in entries.split(",")):
        if entry and host.endswith(entry):
            return True
        try:
            if ip is not None and ip in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return False


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]").rstrip(".").lower()
