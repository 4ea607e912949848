"""Reads what a file of API keys says, strictly: what it does not know, or what contradicts itself, is refused.

    [[keys]]
    tenant = "acme"
    sha256 = "9f86d0…"                 # of the key, in hex; the key itself stands nowhere
    permissions = ["generate"]         # generate, observe, admin
    classes = ["ls", "be"]             # of its requests; left out: both
    requests_per_minute = 600          # the tenant's limits, with all of its keys together; left out: none
    tokens_per_minute = 100000
    max_live = 64

Knows nothing of files and of who presents a key.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.security.grant import CLASS_WORDS, Permission
from scheduler_svc.security.quotas import Quota

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LIMITS = tuple(one.name for one in fields(Quota))
_FIELDS = ("tenant", "sha256", "permissions", "classes", *_LIMITS)
_MOST_LIMIT = 1 << 40


class KeysRefused(ValueError):
    """A file of API keys that can't be used; the message says where, what was given and what is allowed."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One API key as it stands in the file.

    Attributes:
        digest: The key's SHA-256, 32 bytes.
        quota: The limits of its tenant that this entry states.
    """

    tenant: str
    digest: bytes
    permissions: frozenset[Permission]
    classes: frozenset[RequestClass]
    quota: Quota


def read_entries(text: str) -> tuple[KeyEntry, ...]:
    """Returns the entries in the order of the file.

    Raises:
        KeysRefused: It is no TOML, has no entry, or one that is not allowed.
    """
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the latter, and others than its own, for what is absurd
        raise KeysRefused(f"it is no TOML: {error}") from None
    unknown = sorted(content.keys() - {"keys"})
    if unknown:
        raise KeysRefused(f"got {unknown[0]!r}, allowed are tables [[keys]]")
    tables = content.get("keys")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise KeysRefused("it has no table [[keys]]; `qllm-scheduler new-key TENANT` prints one")
    entries = tuple(_entry(f"key {number}", table) for number, table in enumerate(tables, start=1))
    _refuse_contradictions(entries)
    return entries


def quotas_of(entries: tuple[KeyEntry, ...]) -> dict[str, Quota]:
    """Returns the limits of each tenant; raises KeysRefused where two entries of one tenant differ in one."""
    found: dict[str, dict[str, int]] = {}
    for entry in entries:
        limits = found.setdefault(entry.tenant, {})
        for name in _LIMITS:
            value = getattr(entry.quota, name)
            if value is not None and limits.setdefault(name, value) != value:
                raise KeysRefused(
                    f"{name} of tenant {entry.tenant}: got {limits[name]} and {value}; it is the tenant's, so its "
                    "entries may not differ"
                )
    return {tenant: Quota(**limits) for tenant, limits in found.items()}


def _refuse_contradictions(entries: tuple[KeyEntry, ...]) -> None:
    quotas_of(entries)
    seen: dict[bytes, int] = {}
    for number, entry in enumerate(entries, start=1):
        if (first := seen.setdefault(entry.digest, number)) != number:
            raise KeysRefused(f"key {number}: its sha256 is that of key {first}")


def _entry(where: str, table: Mapping[str, object]) -> KeyEntry:
    unknown = sorted(table.keys() - set(_FIELDS))
    if unknown:
        raise KeysRefused(f"{where}: got {unknown[0]!r}, allowed are {', '.join(_FIELDS)}")
    tenant = _text(where, table, "tenant", _TENANT, "1 to 64 letters, digits, dots, hyphens or underscores")
    digest = _text(where, table, "sha256", _SHA256, "64 digits of hex in lower case")
    permissions = _words(where, table, "permissions", [one.value for one in Permission], None)
    classes = _words(where, table, "classes", list(CLASS_WORDS), list(CLASS_WORDS))
    return KeyEntry(
        tenant,
        bytes.fromhex(digest),
        frozenset(map(Permission, permissions)),
        frozenset(CLASS_WORDS[word] for word in classes),
        Quota(**{name: _limit(where, table, name) for name in _LIMITS}),
    )


def _text(where: str, table: Mapping[str, object], name: str, form: re.Pattern[str], allowed: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str) or not form.fullmatch(value):
        # Whoever puts the key itself in the place of its hash should not find it in a log.
        given = "something else" if name == "sha256" and value else repr(value)[:100]
        raise KeysRefused(f"{where}: {name}: got {given}, allowed are {allowed}")
    return value


def _words(
    where: str, table: Mapping[str, object], name: str, allowed: list[str], default: list[str] | None
) -> list[str]:
    value = table.get(name, default)
    if not isinstance(value, list) or not value or not all(word in allowed for word in value):
        given = "nothing" if value is None else repr(value)[:100]
        raise KeysRefused(f"{where}: {name}: got {given}, allowed is a list of {', '.join(allowed)}")
    return value


def _limit(where: str, table: Mapping[str, object], name: str) -> int | None:
    value = table.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_LIMIT:
        raise KeysRefused(f"{where}: {name}: got {repr(value)[:100]}, allowed is a whole number from 1 on")
    return value
