"""Multicast groups of casts: which can be one, which are chosen by chance, where casts are announced. Pure.

A group's low bits make its Ethernet address: 23 of IPv4's (RFC 1112, section 6.4), 32 of IPv6's (RFC 2464, section 7).
Groups whose Ethernet address is one that all machines listen to anyway are refused. IPv6 groups are transient ones of
any source (ff1x, RFC 4291, section 2.7), with the group numbers that are nobody's (RFC 3307, section 4.3).
"""

import secrets
from ipaddress import IPv4Address, IPv6Address, ip_address

from imager.errors import CastError

Group = IPv4Address | IPv6Address

DISCOVERY_GROUP = "239.77.0.1"
"""Where file casts by IPv4 are announced."""
_DISCOVERY_NUMBER = 0xA04D0001
_NUMBERS = range(0x80000000, 0xFF000000)
"""Low 32 bits of IPv6 groups: below are assigned numbers, above are Ethernet addresses of neighbour discovery."""
_LINK, _SITE, _ORGANISATION = 2, 5, 8
_SCOPES = (_LINK, _SITE, _ORGANISATION)


def is_ipv6(address: str) -> bool:
    """Whether it is IPv6's; of what is an address at all."""
    return ":" in address


def without_interface(address: str) -> str:
    """An address of ours as others are told it: fe80::1 of fe80::1%e0."""
    return address.partition("%")[0]


def random_group(with_ipv6: bool = False, ttl: int = 1) -> str:
    """A group of ours; with IPv6 one of the link, or of the site when it shall pass routers."""
    if not with_ipv6:
        return f"239.77.{1 + secrets.randbelow(255)}.{secrets.randbelow(256)}"
    number = _DISCOVERY_NUMBER
    while number == _DISCOVERY_NUMBER:
        number = secrets.choice(_NUMBERS)
    return str(_group(_LINK if ttl == 1 else _SITE, number))


def discovery_groups6() -> tuple[str, ...]:
    """Where file casts by IPv6 are announced: one group a scope."""
    return tuple(str(_group(scope, _DISCOVERY_NUMBER)) for scope in _SCOPES)


def discovery_group(group: str) -> str:
    """Where a cast to this group is announced to those who can hear it."""
    if not is_ipv6(group):
        return DISCOVERY_GROUP
    return str(_group(_scope(IPv6Address(group)), _DISCOVERY_NUMBER))


def is_of_link(group: str) -> bool:
    """Whether no router passes the group on, so that addresses of the link are enough."""
    return is_ipv6(group) and _scope(IPv6Address(group)) == _LINK


def checked_group(text: str, ttl: int = 1) -> str:
    """A group that data can be sent to, with this TTL. Raises CastError for what is none, and says what to take."""
    try:
        group = ip_address(text)
    except ValueError:
        raise CastError(
            f"{text} is no address: a multicast group is wanted, as 239.77.5.5 or ff12::a000:5 is"
        ) from None
    if (problem := group_problem(group)) or (problem := _ttl_problem(str(group), ttl)):
        raise CastError(f"{group} {problem}")
    return str(group)


def group_problem(group: Group) -> str:
    """Why data cannot be sent to it, to be said after its name; empty when it can."""
    if isinstance(group, IPv6Address):
        return _problem6(group)
    if not group.is_multicast:
        return "is no multicast group: take one of 239.0.0.0/8, as 239.77.5.5 is"
    if not int(group) & 0x7FFF00:
        return "has the hardware address of a group of 224.0.0.x, which every switch floods: take 239.77.5.5"
    return ""


def _problem6(group: IPv6Address) -> str:
    if not group.is_multicast or group.scope_id is not None:
        return "is no multicast group: take one of ff12::/16, as ff12::a000:5 is"
    flags, scope = group.packed[1] >> 4, _scope(group)
    if flags & 2:
        return f"is of a single source or a network's own (RFC 3306): take ff1{scope:x}::a000:5"
    if flags != 1:
        return f"is an assigned group, or one that needs a router's help: take ff1{scope:x}::a000:5"
    if scope not in _SCOPES:
        return "is neither of a link, a site nor an organisation: take ff12::a000:5, ff15::a000:5 or ff18::a000:5"
    if int(group) & 0xFFFFFFFF not in _NUMBERS:
        return (
            "has a number that may be another group's (RFC 3307): the last 32 bits are to be from 8000:0 to feff:ffff, "
            f"as those of ff1{scope:x}::a000:5 are"
        )
    return ""


def _ttl_problem(group: str, ttl: int) -> str:
    if ttl > 1 and is_of_link(group):
        return "passes no router, whatever the TTL: take a group of the site, as ff15::a000:5 is"
    return ""


def _group(scope: int, number: int) -> IPv6Address:
    return IPv6Address(0xFF1 << 116 | scope << 112 | number)


def _scope(group: IPv6Address) -> int:
    return group.packed[1] & 15
