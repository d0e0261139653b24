"""Ray Train's process group over gloo, each worker's sockets on the network interface of its node."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Any

from ray.train.torch import TorchConfig
from ray.util import get_node_ip_address

_INTERFACE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # of <linux/sockios.h>
_ADDRESS = slice(20, 24)  # in `struct ifreq`: after the name and the beginning of a `sockaddr_in`


class GlooConfig(TorchConfig):
    """Gloo over the interface that has the address by which Ray knows the node, unless GLOO_SOCKET_IFNAME is set.

    Left alone, gloo takes the address of the host's name, which on many systems is one on loopback: workers on other
    hosts connect to themselves then.
    """

    def __init__(self) -> None:
        super().__init__(backend="gloo")

    @property
    def backend_cls(self) -> type[Any]:
        return _GlooBackend


class _GlooBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_choose_interface)
        super().on_start(worker_group, backend_config)


def _choose_interface() -> None:
    """In a worker's process, before it joins the group."""
    found = interface_of(get_node_ip_address())
    if found is not None:
        os.environ.setdefault(_INTERFACE, found)


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an IPv4 address; None if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, request)
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[_ADDRESS]) == address:
                return name
    return None
