"""Who is calling. Until real identities exist this is an insecure header, believed on the loopback interface only.

Invariant: a gateway that listens beyond loopback authenticates nobody, whatever the header says: anyone could write it.
The principal also scopes the exactly-once identities below, so no caller can ask for the stored answers of another.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from urllib.parse import unquote

from cluster.errors import InvalidName, Unauthenticated
from cluster.ids import Principal
from cluster.session.identity import IDENTITY_BYTES, TIME_BYTES

logger = logging.getLogger(__name__)

REMEMBERED_MAX = 4096
"""Callers whose check is remembered: it is made for every unary call, and a connection makes many."""
PRINCIPAL_METADATA = "moot-principal"


def is_loopback_host(host: str) -> bool:
    """Whether listening on `host` is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=REMEMBERED_MAX)
def is_loopback_peer(peer: str) -> bool:
    """Whether gRPC's name of a caller ("ipv4:127.0.0.1:4711", "ipv6:[::1]:4711") is on this machine."""
    family, _, address = unquote(peer).partition(":")
    if family not in ("ipv4", "ipv6"):
        return False
    host = address.rpartition(":")[0]
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class InsecureHeader:
    """Believes the header `moot-principal: alice@acme` of callers on this machine."""

    __slots__ = ("_listens_on_loopback",)

    def __init__(self, host: str) -> None:
        self._listens_on_loopback = is_loopback_host(host)
        if self._listens_on_loopback:
            logger.warning(
                "INSECURE: this gateway believes the header '%s' of every caller on this machine; nothing is authenticated",
                PRINCIPAL_METADATA,
            )
        else:
            logger.error(
                "this gateway listens on %s, beyond loopback, where the insecure header '%s' is not believed: "
                "every call will be refused",
                host,
                PRINCIPAL_METADATA,
            )

    def authenticate(self, peer: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The caller's principal, `agent@authority`. Raises Unauthenticated; nothing is affected."""
        if not self._listens_on_loopback or not is_loopback_peer(peer):
            raise Unauthenticated(f"the insecure header {PRINCIPAL_METADATA!r} is accepted on the loopback interface only")
        values = [value for name, value in metadata if name == PRINCIPAL_METADATA]
        if len(values) != 1 or not isinstance(values[0], str):
            raise Unauthenticated(f"exactly one {PRINCIPAL_METADATA!r} header of the form agent@authority is needed")
        return _client_principal(values[0])


@lru_cache(maxsize=REMEMBERED_MAX)
def _client_principal(text: str) -> str:
    try:
        principal = Principal.parse(text)
    except InvalidName as error:
        raise Unauthenticated(error.message) from None
    if principal.authority == "moot":
        # documents and the cluster itself act under this authority; no client may pass for them.
        raise Unauthenticated("the authority 'moot' is the cluster's own")
    return text


def scoped_session(principal: str, session: bytes) -> bytes:
    """The identity under which a session's sequences are remembered: another principal with the same bytes gets another.

    The time in front stays, documents forget by it.
    """
    rest = blake2b(session, digest_size=IDENTITY_BYTES - TIME_BYTES, key=_scope(principal), person=b"moot session")
    return session[:TIME_BYTES] + rest.digest()


def scoped_idempotency_key(principal: str, key: bytes) -> bytes:
    """The same for an idempotency key, which may be of any form; apart from all sessions."""
    return blake2b(key, digest_size=IDENTITY_BYTES, key=_scope(principal), person=b"moot idem key").digest()


@lru_cache(maxsize=REMEMBERED_MAX)
def _scope(principal: str) -> bytes:
    return blake2b(principal.encode(), digest_size=32).digest()
