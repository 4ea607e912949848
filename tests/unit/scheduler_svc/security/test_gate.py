"""Who presents a key gets what its entry says; who presents none, or another, gets nothing and learns nothing."""

import hmac
from pathlib import Path

import pytest

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import PermissionDenied, QuotaExceeded, Unauthenticated
from scheduler_svc.security import gate as gate_module
from scheduler_svc.security.gate import ANY_KEY, NOT_LISTED, Gate, Rule
from scheduler_svc.security.grant import Permission
from tests.support.security.api_keys import Clock, entry, gate_of, write_keys

KEYS = (
    entry("a", "key a"),
    entry("b", "key-b", ["observe"], ["be"]),
    entry("ops", "key-ops", ["admin"]),
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
def gate(path: Path, clock: Clock) -> Gate:
    return gate_of(path, *KEYS, clock=clock)


@pytest.mark.parametrize("header", ["Bearer key a", "bearer key a", "BEARER  key a "])
def test_a_known_key_is_its_tenants(gate: Gate, header: str) -> None:
    grant = gate.grant_of(header)
    assert grant.tenant == "a"
    assert grant.permissions == {Permission.GENERATE}
    assert grant.classes == set(RequestClass)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic a2V5", "key a", "Bearerkey a"])
def test_who_presents_no_key_is_told_how(gate: Gate, header: str | None) -> None:
    with pytest.raises(Unauthenticated, match="needs an API key: send the header 'Authorization: Bearer KEY'"):
        gate.grant_of(header)


@pytest.mark.parametrize("key", ["key", "key a b", "KEY A", "\x00", "ü", "\udcff", "x" * 100_000])
def test_an_unknown_key_is_refused_and_not_repeated(gate: Gate, key: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        gate.grant_of(f"Bearer {key}")
    assert str(refused.value) == "the API key is not known to this service"


@pytest.mark.parametrize("key", ["key a", "key-ops", "nobody's"])
def test_a_key_is_compared_with_every_entry_in_constant_time(
    gate: Gate, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(gate_module, "compare_digest", compare_digest)
    if key == "nobody's":
        with pytest.raises(Unauthenticated):
            gate.grant_of(f"Bearer {key}")
    else:
        gate.grant_of(f"Bearer {key}")
    assert compared == [(32, 32)] * len(KEYS)


def test_a_key_that_is_taken_out_of_the_file_is_refused_from_then_on(gate: Gate, path: Path, clock: Clock) -> None:
    gate.grant_of("Bearer key a")
    write_keys(path, *KEYS[1:])
    clock.now_s += 1
    with pytest.raises(Unauthenticated):
        gate.grant_of("Bearer key a")
    assert gate.grant_of("Bearer key-b").tenant == "b"


def test_a_tenant_keeps_what_it_has_used_when_the_file_changes(gate: Gate, path: Path, clock: Clock) -> None:
    limited = entry("a", "key a", requests_per_minute=1)
    write_keys(path, limited)
    clock.now_s += 1
    gate.grant_of("Bearer key a").account.enter(1, clock.now_s)
    write_keys(path, limited, entry("a", "another"))
    clock.now_s += 1
    with pytest.raises(QuotaExceeded):
        gate.grant_of("Bearer another").account.enter(1, clock.now_s)


def test_unknown_keys_are_told_of_once_a_minute(gate: Gate, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for now_s in (0, 1, 2, 61):
        clock.now_s = 1000.0 + now_s
        with pytest.raises(Unauthenticated):
            gate.grant_of("Bearer secret")
    assert len(caplog.records) == 2
    assert "secret" not in caplog.text


def test_a_rule_names_the_permission_that_is_lacking(gate: Gate) -> None:
    grant = gate.grant_of("Bearer key a")
    Rule((Permission.GENERATE,)).check(grant, "Generate")
    ANY_KEY.check(grant, "anything")
    with pytest.raises(PermissionDenied, match=r"^Drain needs the permission 'admin'; this key has 'generate'$"):
        Rule((Permission.ADMIN,)).check(grant, "Drain")
    with pytest.raises(PermissionDenied, match="needs the permission 'observe' or 'admin'"):
        Rule((Permission.OBSERVE, Permission.ADMIN)).check(grant, "Look")
    with pytest.raises(PermissionDenied, match="needs the permission 'admin'"):
        NOT_LISTED.check(grant, "what nobody thought of")


def test_a_rule_names_the_classes_that_are_allowed(gate: Gate) -> None:
    grant = gate.grant_of("Bearer key-b")
    Rule(request_class=RequestClass.BEST_EFFORT).check(grant, "a job")
    with pytest.raises(PermissionDenied, match=r"got latency-sensitive, allowed with this key is best-effort \(be\)"):
        Rule(request_class=RequestClass.LATENCY_SENSITIVE).check(grant, "a chat")


def test_who_may_administer_may_observe_and_not_generate(gate: Gate) -> None:
    grant = gate.grant_of("Bearer key-ops")
    assert [grant.may(one) for one in (Permission.ADMIN, Permission.OBSERVE, Permission.GENERATE)] == [
        True,
        True,
        False,
    ]


def test_items_of_a_tenants_jobs_use_the_same_tokens_as_its_requests(path: Path, clock: Clock) -> None:
    gate = gate_of(path, entry("a", "key a", tokens_per_minute=100), clock=clock)
    gate.items_grant("a").account.enter(50, clock())
    with pytest.raises(QuotaExceeded):
        gate.grant_of("Bearer key a").account.enter(51, clock())
    assert gate.items_grant("a").classes == {RequestClass.BEST_EFFORT}


def test_items_of_a_tenant_that_is_not_in_the_file_have_no_limit(gate: Gate, clock: Clock) -> None:
    gate.items_grant("gone").account.enter(10**9, clock())
