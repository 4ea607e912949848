"""One reading of addresses, whoever listens or connects."""

import pytest
from qllm.addresses import AddressRefused, join, listening_ip, read_target


@pytest.mark.parametrize("given", ["::1", "[::1]"])
def test_ipv6_may_stand_in_brackets_or_not(given: str) -> None:
    assert listening_ip(given) == "::1"
    assert join(listening_ip(given), 50051) == "[::1]:50051"


@pytest.mark.parametrize("given", ["127.0.0.1", "localhost"])
def test_localhost_is_one_address_for_all(given: str) -> None:
    assert join(listening_ip(given), 0) == "127.0.0.1:0"


@pytest.mark.parametrize("given", ["0.0.0.0", "::", "127.0.0.7"])
def test_an_address_stands_for_itself(given: str) -> None:
    assert listening_ip(given) == given


@pytest.mark.parametrize(
    "given", ["", "[127.0.0.1]", "[]", "127.0.0.1:50051", "http://x", "256.0.0.1", "a b", "x" * 70]
)
def test_what_is_no_host_is_refused_by_name(given: str) -> None:
    with pytest.raises(AddressRefused) as refusal:
        listening_ip(given)
    assert str(refusal.value).startswith(f"got {given!r}, allowed is an IP address")


@pytest.mark.parametrize(
    ("given", "is_local"),
    [
        ("127.0.0.1:50051", True),
        ("127.9.9.9:1", True),
        ("localhost:65535", True),
        ("[::1]:50051", True),
        ("0.0.0.0:50051", True),
        ("unix:/tmp/socket", True),
        ("unix:socket", True),
        ("unix-abstract:name", True),
        ("dns:///localhost:50051", True),
        ("ipv4:127.0.0.1:50051", True),
        ("ipv6:[::1]:50051", True),
        ("LOCALHOST:1", True),
        ("localhost.:1", True),
        ("ip6-localhost:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("DNS:///localhost:1", True),
        ("ipv4:127.0.0.1:80,127.0.0.1:81", True),
        ("ipv6:%5B::1%5D:5", True),
        ("10.0.0.1:50051", False),
        ("service:50051", False),
        ("localhost.example.com:50051", False),
        ("[2001:db8::1]:50051", False),
        ("dns:///service:50051", False),
        ("dns://8.8.8.8/service:50051", False),
        ("ipv4:10.0.0.1:50051,127.0.0.1:50051", False),
        ("dns:50051", False),
    ],
)
def test_targets_are_taken_as_they_are_and_known_to_be_local_or_not(given: str, is_local: bool) -> None:
    target = read_target(given)
    assert (target.name, target.is_local) == (given, is_local)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("127.0.0.1", "names no port"),
        ("localhost", "names no port"),
        ("::1", "names no host"),
        ("[::1]", "names no port"),
        ("::1:50051", "names no host"),
        ("2001:db8::1:50051", "names no port"),
        ("127.0.0.1:", "names no port"),
        ("127.0.0.1:http", "names no port"),
        ("", "names no host"),
        (":50051", "names no host"),
        ("127.0.0.1:0", "port is not within 1 to 65535"),
        ("127.0.0.1:99999", "port is not within 1 to 65535"),
        (f"127.0.0.1:{'1' * 5000}", "names no port"),
        ("[127.0.0.1]:50051", "brackets hold no IPv6 address"),
        ("http://127.0.0.1:8000", "is a URL"),
        ("127.0.0.1:50051/v1", "names no port"),
    ],
)
def test_what_is_no_target_is_refused_with_what_is_allowed(given: str, why: str) -> None:
    with pytest.raises(AddressRefused) as refusal:
        read_target(given)
    assert repr(given) in str(refusal.value)
    assert why in str(refusal.value)
    assert str(refusal.value).endswith("allowed are HOST:PORT, [IPv6]:PORT and unix:PATH")
