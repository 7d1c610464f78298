"""Which network addresses belong to the public Internet: what fetching on a stranger's behalf may contact."""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Not for the public though some Python versions call them global: Azure's platform service, protocol assignments (with
# Oracle's metadata service), local NAT64.
_INTERNAL = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "64:ff9b:1::/48")))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public Internet, also looking through IPv6 forms that embed an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(embedded)
        if address.teredo is not None or address.is_site_local:
            return False
    internal = any(address in network for network in _INTERNAL)
    return address.is_global and not (address.is_multicast or address.is_reserved or internal)
