"""A file of API keys is read strictly: whatever in it could mean something else than its author thinks is refused."""

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.security.grant import Permission
from scheduler_svc.security.key_entries import KeysRefused, quotas_of, read_entries
from scheduler_svc.security.quotas import Quota
from tests.support.security.api_keys import entry

HASH = "a" * 64


def table(**fields: object) -> str:
    given = {"tenant": '"acme"', "sha256": f'"{HASH}"', "permissions": '["generate"]', **fields}
    return "[[keys]]\n" + "\n".join(f"{name} = {value}" for name, value in given.items() if value is not None)


def test_an_entry_says_tenant_hash_permissions_classes_and_limits() -> None:
    text = entry("acme", "secret", ["generate", "observe"], ["be"], requests_per_minute=60, max_live=4)
    (one,) = read_entries(text)
    assert one.tenant == "acme"
    assert one.digest == hashlib.sha256(b"secret").digest()
    assert one.permissions == {Permission.GENERATE, Permission.OBSERVE}
    assert one.classes == {RequestClass.BEST_EFFORT}
    assert one.quota == Quota(requests_per_minute=60, max_live=4)


def test_classes_and_limits_may_be_left_out() -> None:
    (one,) = read_entries(table())
    assert one.classes == set(RequestClass)
    assert one.quota == Quota()


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", "it has no table [[keys]]"),
        ("keys = 3", "it has no table [[keys]]"),
        ("keys = [3]", "it has no table [[keys]]"),
        ("[[keys]", "it is no TOML"),
        (f"keys = {'[' * 10_000}{']' * 10_000}", "it is no TOML"),
        (f"keys = {'9' * 10_000}", "it is no TOML"),
        (f"[[key]]\nx = 1\n{table()}", "got 'key', allowed are tables [[keys]]"),
        (table(tenants='"x"'), "key 1: got 'tenants', allowed are tenant, sha256, permissions, classes, requests_per"),
        (table(tenant=None), "key 1: tenant: got '', allowed are 1 to 64 letters"),
        (table(tenant='"a b"'), "key 1: tenant: got 'a b', allowed are 1 to 64 letters"),
        (table(tenant='"a\\u0000b"'), "key 1: tenant: got "),
        (table(tenant="7"), "key 1: tenant: got 7"),
        (table(sha256=None), "key 1: sha256: got '', allowed are 64 digits of hex"),
        (table(sha256=f'"{"A" * 64}"'), "key 1: sha256: got something else, allowed are 64 digits of hex in lower"),
        (table(permissions=None), "key 1: permissions: got nothing, allowed is a list of generate, observe, admin"),
        (table(permissions="[]"), "key 1: permissions: got [], allowed is a list"),
        (table(permissions='["all"]'), "key 1: permissions: got ['all'], allowed is a list"),
        (table(permissions='"admin"'), "key 1: permissions: got 'admin', allowed is a list"),
        (table(classes='["LS"]'), "key 1: classes: got ['LS'], allowed is a list of ls, be"),
        (table(max_live="0"), "key 1: max_live: got 0, allowed is a whole number from 1 on"),
        (table(max_live="true"), "key 1: max_live: got True, allowed is a whole number from 1 on"),
        (table(tokens_per_minute="1.5"), "key 1: tokens_per_minute: got 1.5, allowed is a whole number"),
        (f"{table()}\n{table()}", "key 2: its sha256 is that of key 1"),
    ],
)
def test_what_is_not_known_is_refused_by_its_place(text: str, refusal: str) -> None:
    with pytest.raises(KeysRefused) as refused:
        read_entries(text)
    assert str(refused.value).startswith(refusal)


def test_a_key_that_stands_where_its_hash_should_is_not_repeated() -> None:
    with pytest.raises(KeysRefused) as refused:
        read_entries(table(sha256='"qllm_the-key-itself"'))
    assert "qllm_" not in str(refused.value)


def test_limits_are_the_tenants_whichever_of_its_keys_states_them() -> None:
    entries = read_entries(entry("a", "1", max_live=3) + entry("a", "2", requests_per_minute=9) + entry("b", "3"))
    assert quotas_of(entries) == {"a": Quota(requests_per_minute=9, max_live=3), "b": Quota()}


def test_entries_of_one_tenant_may_not_differ_in_a_limit() -> None:
    with pytest.raises(KeysRefused, match="max_live of tenant a: got 3 and 4"):
        read_entries(entry("a", "1", max_live=3) + entry("a", "2", max_live=4))


@given(st.text())
def test_whatever_a_file_says_it_is_read_or_refused(text: str) -> None:
    for content in (text, table(tenant=text), table(max_live=text), f"[[keys]]\n{text}"):
        with contextlib.suppress(KeysRefused):
            assert read_entries(content)
