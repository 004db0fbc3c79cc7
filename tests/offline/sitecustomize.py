"""With this folder on PYTHONPATH, Python reaches nothing but this machine: a stranger's cable pulled out.

Jupyter's kernels speak over loopback, so they work.
"""

import ipaddress
import socket

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _check(host):
    """Raise unless ``host`` is this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return
    try:
        if ipaddress.ip_address(name.partition("%")[0]).is_loopback or name in ("0.0.0.0", "::"):
            return
    except ValueError:
        pass  # a name that is not an address
    raise OSError(f"no network: this run may not reach {name}")


def _guarded(method):
    def call(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return method(self, address)

    return call


def _resolve(host, *arguments, **options):
    _check(host)
    return _getaddrinfo(host, *arguments, **options)


socket.socket.connect = _guarded(_connect)
socket.socket.connect_ex = _guarded(_connect_ex)
socket.getaddrinfo = _resolve
