"""Where webhooks may go: only to hosts that the operator lists, and there only to public addresses or listed ones.

A client names the URL, and the service stands inside somebody's network: without this it would be a way in.
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

MOST_URL = 2048
_URL = re.compile(r"https?://[!-~]+")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?\.?|[0-9a-f:.]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# These hold another address inside, which whoever translates them may well reach.
_TRANSLATED = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("2002::/16"))

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class TargetError(ValueError):
    """A webhook must not go there, or a setting is no host; the message is for whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == _DEFAULT_PORTS["https" if self.secure else "http"]
        return host if usual else f"{host}:{self.port}"


class Targets:
    """The operator's list: `host` (ports 80 and 443), `host:port`, and networks `10.0.0.0/8` of addresses to allow.

    Args:
        entries: the list; empty = nothing may be reached.

    Raises:
        TargetError: an entry is neither.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._hosts: set[tuple[str, int]] = set()
        self._networks: list[Network] = []
        for entry in entries:
            self._add(entry.strip().lower())

    @property
    def empty(self) -> bool:
        """Whether no host is listed."""
        return not self._hosts

    def parse(self, url: str) -> Target:
        """Return a URL taken apart. Raises TargetError: it is no URL, or its host is not listed."""
        if len(url) > MOST_URL or not _URL.fullmatch(url):
            raise TargetError("must be an http or https URL in ASCII")
        try:
            parts = urlsplit(url)
            port = parts.port or _DEFAULT_PORTS[parts.scheme]
        except ValueError:
            raise TargetError("must be an http or https URL in ASCII") from None
        host = parts.hostname or ""
        if parts.username is not None or parts.password is not None or parts.fragment or not _HOST.fullmatch(host):
            raise TargetError("must have a plain host, no user name and no fragment")
        if (host.rstrip("."), port) not in self._hosts:
            raise TargetError("this host and port are not allowed here")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme == "https", host.rstrip("."), port, path)

    async def addresses(self, target: Target) -> list[str]:
        """Return the target's addresses, all of them allowed.

        Raises:
            TargetError: one is not, or the way there is not encrypted and leads outside the listed networks.
            OSError: the name cannot be resolved.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(ip_address(str(place[0]).partition("%")[0]) for *_, place in found))
        for address in addresses:
            listed = self._listed(address)
            if not listed and not _public(address):
                raise TargetError("the host has an address inside a network that is not allowed")
            if not listed and not target.secure:
                raise TargetError("http is for listed networks only; use https")
        return [str(address) for address in addresses]

    def _add(self, entry: str) -> None:
        if "/" in entry:
            try:
                self._networks.append(ip_network(entry))
            except ValueError:
                raise TargetError(f"{entry!r} is no network") from None
            return
        try:
            parts = urlsplit(f"//{entry}")
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise TargetError(f"{entry!r} is neither host, host:port nor network") from None
        if not _HOST.fullmatch(host) or parts.path or parts.query or parts.username is not None:
            raise TargetError(f"{entry!r} is neither host, host:port nor network")
        ports = _DEFAULT_PORTS.values() if port is None else (port,)
        self._hosts.update((host.rstrip("."), one) for one in ports)
        try:
            self._networks.append(ip_network(host))  # an address that is listed itself
        except ValueError:
            return

    def _listed(self, address: Address) -> bool:
        plain = _plain(address)
        return any(plain.version == network.version and plain in network for network in self._networks)


def _plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address may be another way of writing."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _public(address: Address) -> bool:
    plain = _plain(address)
    hidden = any(plain.version == network.version and plain in network for network in _TRANSLATED)
    return plain.is_global and not plain.is_multicast and not hidden
