"""What the caller of a request may do. Each API says so where a request comes in; what is done for it can ask.

Where there are no API keys, everybody may do everything.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

from scheduler_svc.caller import set_tenant
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import PermissionDenied
from scheduler_svc.security.quotas import Account, UseCount

CLASS_WORDS = {"ls": RequestClass.LATENCY_SENSITIVE, "be": RequestClass.BEST_EFFORT}


class Permission(StrEnum):
    """What a key may be allowed."""

    GENERATE = "generate"
    OBSERVE = "observe"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Grant:
    """What one API key allows.

    Attributes:
        tenant: Whose key it is.
        permissions: What it may do; who may administer may observe too.
        classes: The classes that its requests may have.
        account: Counts what the tenant uses, with whichever of its keys.
    """

    tenant: str = ""
    permissions: frozenset[Permission] = frozenset(Permission)
    classes: frozenset[RequestClass] = frozenset(RequestClass)
    account: UseCount = field(default_factory=Account)

    def may(self, permission: Permission) -> bool:
        """Returns whether the key has a permission."""
        includes_it = permission is Permission.OBSERVE and Permission.ADMIN in self.permissions
        return includes_it or permission in self.permissions

    def require_any(self, permissions: Sequence[Permission], what: str) -> None:
        """Raises PermissionDenied unless the key has one of the permissions, which `what` needs."""
        if not any(map(self.may, permissions)):
            needed = " or ".join(repr(one.value) for one in permissions)
            raise PermissionDenied(f"{what} needs the permission {needed}; this key has {self._has()}")

    def require_class(self, request_class: RequestClass) -> None:
        """Raises PermissionDenied unless requests of the class are allowed."""
        if request_class not in self.classes:
            allowed = ", ".join(f"{one.words} ({word})" for word, one in CLASS_WORDS.items() if one in self.classes)
            raise PermissionDenied(f"class: got {request_class.words}, allowed with this key is {allowed}")

    def _has(self) -> str:
        return ", ".join(repr(one.value) for one in Permission if one in self.permissions) or "none"


UNRESTRICTED = Grant()
_grant: ContextVar[Grant] = ContextVar("grant", default=UNRESTRICTED)


def act_for(grant: Grant) -> None:
    """Says with whose rights, and on whose behalf, the current task works from here."""
    _grant.set(grant)
    set_tenant(grant.tenant)


def current_grant() -> Grant:
    """Returns the rights with which the current task works; all of them where there are no API keys."""
    return _grant.get()
