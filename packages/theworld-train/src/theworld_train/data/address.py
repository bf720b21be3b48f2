"""Which internet addresses are public: a list of URLs may not make this machine ask its own network."""

import ipaddress

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: an IPv4 address in the last 32 bits."""


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet.

    Private, loopback, link-local, shared (carrier-grade NAT), multicast, reserved and documentation addresses are not,
    nor are IPv6 addresses that carry one of those as an IPv4 address (mapped, 6to4, NAT64), nor Teredo's.

    Raises:
        ValueError: it is no numeric address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(parsed.packed[12:])
        if inner is not None:
            return is_public(str(inner))
        if parsed.teredo is not None or parsed.is_site_local:
            return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved)
