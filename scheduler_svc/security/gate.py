"""Decides whether a call may go on: whose key it carries, and whether that key allows it. The same for both APIs.

    Authorization: Bearer KEY ──hash──▶ compared with every entry ──▶ Grant ──rule of what is called──▶ goes on

Each API has a table of rules for what can be called. What no rule names needs the permission to administer, so that
nothing is open because somebody forgot it. Knows no wire format.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import Unauthenticated
from scheduler_svc.process.rarely import Rarely
from scheduler_svc.security.grant import Grant, Permission
from scheduler_svc.security.key_entries import KeyEntry, quotas_of
from scheduler_svc.security.key_file import KeyFile
from scheduler_svc.security.quotas import Account, ItemsAccount, Quota

_log = logging.getLogger(__name__)

_SCHEME = "bearer "
_HOW = "send the header 'Authorization: Bearer KEY'"


@dataclass(frozen=True, slots=True)
class Rule:
    """What something that can be called needs.

    Attributes:
        permissions: One of these; none: any key will do.
        request_class: A class that the key must allow; None: it does not matter.
        is_open: Whether it needs no key at all.
    """

    permissions: tuple[Permission, ...] = ()
    request_class: RequestClass | None = None
    is_open: bool = False

    def check(self, grant: Grant, what: str) -> None:
        """Raises PermissionDenied unless the grant allows `what` this is the rule of."""
        if self.permissions:
            grant.require_any(self.permissions, what)
        if self.request_class is not None:
            grant.require_class(self.request_class)


OPEN = Rule(is_open=True)
ANY_KEY = Rule()
NOT_LISTED = Rule((Permission.ADMIN,))


class Gate:
    """Knows the keys.

    Args:
        key_file: The keys.
        clock: Gives the time in seconds.
    """

    def __init__(self, key_file: KeyFile, clock: Callable[[], float]) -> None:
        self._key_file = key_file
        self._clock = clock
        self._entries: tuple[KeyEntry, ...] = ()
        self._accounts: dict[str, Account] = {}
        self._rarely = Rarely(clock=clock)

    def grant_of(self, authorization: str | None) -> Grant:
        """Returns what the key in an Authorization header allows; raises Unauthenticated if there is none known."""
        key = _bearer(authorization)
        if key is None:
            raise Unauthenticated(f"this service needs an API key: {_HOW}")
        self._take_entries()
        entry = _find(self._entries, key)
        if entry is None:
            if self._rarely.is_due():
                _log.warning("api_key_unknown: a call was refused (said once a minute)")
            raise Unauthenticated("the API key is not known to this service")
        return Grant(entry.tenant, entry.permissions, entry.classes, self._accounts[entry.tenant])

    def items_grant(self, tenant: str) -> Grant:
        """Returns with which rights items of a tenant's jobs run: within its tokens, as the file says them now."""
        self._take_entries()
        account = ItemsAccount(self._accounts.setdefault(tenant, Account(tenant)))
        return Grant(tenant, frozenset(), frozenset({RequestClass.BEST_EFFORT}), account)

    def _take_entries(self) -> None:
        """Takes what the file says now; tenants that are still there keep what they have used."""
        entries = self._key_file.entries(self._clock())
        if entries is self._entries:
            return
        for tenant, quota in quotas_of(entries).items():
            self._accounts.setdefault(tenant, Account(tenant)).change(quota)
        self._entries = entries
        for tenant in self._accounts.keys() - {entry.tenant for entry in entries}:
            self._accounts[tenant].change(Quota())  # only what runs still has it


def _bearer(authorization: str | None) -> str | None:
    """Returns the key; None if the header has none."""
    if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
        return None
    return authorization[len(_SCHEME) :].strip() or None


def _find(entries: tuple[KeyEntry, ...], key: str) -> KeyEntry | None:
    """Returns the key's entry; looks at all of them, in the same time whichever it is."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    found = None
    for entry in entries:
        if compare_digest(entry.digest, digest):
            found = entry
    return found
