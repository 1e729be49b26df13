"""Options that an administrator adds to a subnet: what is taken, how it is sent, and what is refused in words."""

import pytest

from netboot.wire.dhcp_options import parse_custom_option


@pytest.mark.parametrize(
    ("name", "value", "code", "raw"),
    [
        ("ntp-servers", ["10.0.0.1", "10.0.0.2"], 42, "0a0000010a000002"),
        ("ntp-servers", "10.0.0.1, 10.0.0.2", 42, "0a0000010a000002"),
        ("42", "10.0.0.1", 42, "0a000001"),
        (42, "10.0.0.1", 42, "0a000001"),
        ("interface-mtu", 1400, 26, "0578"),
        ("time-offset", -3600, 2, "fffff1f0"),
        ("root-path", "/srv", 17, "2f737276"),
        ("domain-search", ["lab.test", "a.b."], 119, "036c61620474657374000161016200"),
        # the example of RFC 3442: a default route, one network of a whole number of octets, one that is none
        ("classless-static-routes", "0.0.0.0/0 via 10.0.0.1", 121, "000a000001"),
        ("classless-static-routes", ["10.17.0.0/16 via 10.0.0.9", "10.27.129.0/25 via 10.0.0.8"], 121,
         "100a110a000009190a1b81000a000008"),
        (43, "hex:01:02 ff", 43, "0102ff"),
        (224, "text:abc", 224, "616263"),
        ("ntp-servers", "hex:0a000001", 42, "0a000001"),
    ],
)  # fmt: skip
def test_an_option_is_sent_as_its_specification_says(name: str | int, value: object, code: int, raw: str) -> None:
    assert parse_custom_option(name, value) == (code, bytes.fromhex(raw))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ntp-servers", "10.0.0", "'10.0.0' is not an IPv4 address"),
        ("ntp-servers", 7, "7 is not an IPv4 address"),
        ("interface-mtu", 70000, "does not fit in 16 bits"),
        ("interface-mtu", "1400", "is not a number"),
        ("interface-mtu", True, "is not a number"),
        ("root-path", "a\nb", "not printable ASCII"),
        ("root-path", "ä", "not printable ASCII"),
        ("root-path", "", "0 bytes"),
        ("wpad", "x" * 256, "256 bytes"),
        ("domain-search", "a..b", "not a domain name"),
        ("domain-search", "x" * 64, "not a domain name"),
        ("classless-static-routes", "10.0.0.1/8 via 10.0.0.1", "not of the form"),
        ("classless-static-routes", "10.0.0.0/8", "not of the form"),
        (224, "abc", "hex:0a0b"),
        (224, 5, "hex:0a0b"),
        (224, "hex:0", "not hexadecimal"),
        ("no-such", "x", "names are time-offset"),
        ("No Such", "x", "write its number or its name"),
        (0, "hex:00", "codes are 1 to 254"),
        (255, "hex:00", "codes are 1 to 254"),
        ("99999999999", "hex:00", "codes are 1 to 254"),
        (True, "hex:00", "write its number"),
        (3, "10.0.0.1", "`routers`"),
        (53, "hex:05", "DHCP itself writes it"),
        (60, "text:PXEClient", "the firmware needs it"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_words(name: str | int, value: object, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_custom_option(name, value)
    assert words in str(caught.value)
    assert str(name) in str(caught.value)
