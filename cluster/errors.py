"""Every error that Moot raises on purpose, grouped by what the caller may do.

    ClusterError
      RetryableError            nothing is wrong with the request: send it again (applied is never `yes`)
        NotLeader               this replica does not lead the shard; `leader` hints at who does
        StaleRoute              the shard map moved on; `shard_map_version` says how far
        Unavailable             no leader is known, or the connection to it broke
        Overloaded              a named bound was reached; wait `retry_after_ms`
        StorageFull             the disk's high-water mark was reached; wait `retry_after_ms`, until somebody has made room
        Transferring            the shard's leadership is being handed over; wait `retry_after_ms`, then find the next leader
        ChangePending           another change of the shard's replicas comes first
        LearnerBehind           a replica that should become a voter has not caught up yet
        StaleConfiguration      the shard's configuration is another one than the caller saw
        StaleRegistry           the cluster's nodes are others than the caller saw
        SequenceGap             the session skipped a sequence; resend from `expected`
        CodeMissing             the bundle of this document has not reached this node yet
      RejectedError             the request is wrong: fix it (applied is always `no`)
        InvalidName             a space, key, channel, node or principal is not a legal name
        InvalidRequest          the request contradicts itself or lacks a field
        InvalidPayload          not JSON as Moot takes it, or not of the channel's schema
        InvalidArguments        the arguments of a read or watch are not of the class's views
        InvalidPatch            an operator's patch does not fit the document; the message names the operation
        TooLarge                a named size bound was exceeded
        UnknownSpace            no such space is deployed
        UnknownChannel          the space's code has no such handler
        UnknownRoute            nothing of the document takes this method and path; `allow` names what the path takes
        UnknownShard            the cluster has no such shard
        UnknownNode             the cluster has no such node
        UnknownDocument         never created
        UnknownBlob             what the caller may see of the document shows no such blob
        DocumentDeleted         a tombstone stands at this key
        DocumentExists          create of a key that is taken
        DocumentFrozen          waits for an operator's repair
        PermissionDenied        the document's gate says no
        Unauthenticated         no acceptable principal was given
        AskClosed               nothing of that id waits for an answer of this principal (any more)
        NotArmed                the alarm is not armed, not due, or has rung; never told to clients
        ConnectionUnchanged     the connection has come, or gone, already; never told to clients
        KeyReused               a sequence or idempotency key came back with another payload
        PositionRewound         the position belongs to another epoch
        PositionMoved           the document is at another position than the caller expects; `current` is where
        HistoryTrimmed          older than the earliest retained position
        NoReplica               the asked node holds no replica of the shard; `holders` names who does
        InvalidMove             the shard's replicas do not stand as a move of them says
        NodeDown                the node that something should move to looks dead
        NodeHolds               replicas are left on a node that should be removed
        InvalidBundle           code that may not be deployed; says file, line, reason, replacement
      AnsweredError             the command was logged and its outcome is an error: state rolled back (applied is `no`)
        HandlerRefused          the author's declared refusal; `name` is its class
        HandlerFailed           a bug in the author's code; `error_id` finds it in the space's errors
        BudgetExceeded          the handler used up its steps, depth or sizes
        Poisoned                the command ended nodes; an operator isolated it
      OutcomeUnknown            it may have been applied: find out (read, or resend under the same session sequence)
      OperatorError             somebody must look at the node (state on disk is left as it was found)
        StorageError            the engine failed
          StorageDamaged        checksum mismatch, gap or corrupt file
          FormatTooNew          written by a newer release
          DirectoryInUse        another process has the data directory open
          SyncFailed            fsync failed; the node stops and never retries it
        LogLost                 this replica's log is shorter than what it acknowledged
        IdentityFenced          another data directory already stands behind this node's name
        NodeRemoved             the node was removed from the cluster for good
        ClockSkewed             a node's clock is too far from that of the cluster it wants to join
        ReleaseMismatch         a node's release and that of the cluster it wants to join have no protocol in common
        ApplyHalted             a shard's apply stopped on this node
        WrongCluster            the peer or the directory belongs to another cluster
        ConfigurationInvalid    a setting is out of its range

`reason` is the stable wire name (ErrorInfo.reason). `applied` answers whether state was affected: yes, no or unknown.
"""

from __future__ import annotations

import enum
import re
from typing import ClassVar


class Applied(enum.Enum):
    """Whether the request that failed changed any state."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class ClusterError(Exception):
    """Base of all errors; not raised itself.

    details: further ErrorInfo metadata, string to string, documented by the class that sets it.
    """

    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    applied: Applied = Applied.NO

    def __init__(self, message: str = "", *, retry_after_ms: int = 0, **details: object) -> None:
        super().__init__(message or type(self).__doc__ or self.reason)
        self.message = str(self.args[0])
        self.retry_after_ms = retry_after_ms
        self.details = {name: str(value) for name, value in details.items()}

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "reason" not in cls.__dict__:
            cls.reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).upper()


class RetryableError(ClusterError):
    """Nothing is wrong with the request; the same request may succeed later."""

    retryable = True


class NotLeader(RetryableError):
    """This replica does not lead the shard. `leader` (a node id) is a hint, empty when unknown."""


class StaleRoute(RetryableError):
    """The sender's shard map is older than this node's."""


class Unavailable(RetryableError):
    """No leader is known or reachable at the moment. `applied` is unknown if the request was already on its way."""

    def __init__(self, message: str = "", *, applied: Applied = Applied.NO, retry_after_ms: int = 0, **details: object) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms, **details)
        self.applied = applied


class Overloaded(RetryableError):
    """A named bound was reached; nothing was queued. Wait `retry_after_ms`."""


class StorageFull(RetryableError):
    """The disk's high-water mark was reached; nothing was queued. Reads go on, and writes when somebody has made room."""


class Transferring(RetryableError):
    """The shard's leadership is being handed over; nothing was queued. `successor` is the replica that is to lead next."""


class ChangePending(RetryableError):
    """Another change of the shard's replicas, or its leader's first entry, is not committed yet; one comes at a time."""


class LearnerBehind(RetryableError):
    """A replica that should become a voter lacks too much of the log; it would hold up commits until it has caught up."""


class StaleConfiguration(RetryableError):
    """The shard's configuration is another one than the caller saw; `index` names the newest. Look again, then decide."""


class StaleRegistry(RetryableError):
    """The cluster's nodes are others than the caller saw; `members_epoch` names the newest. Look again, then decide."""


class SequenceGap(RetryableError):
    """The session's next sequence at this document is `expected`; resend from there, in order."""


class CodeMissing(RetryableError):
    """The bundle of this document's code has not reached this node yet."""


class RejectedError(ClusterError):
    """The request is wrong and changed nothing; sending it again will not help."""


class InvalidName(RejectedError):
    """A space, key, channel, node or principal is not a legal name."""


class InvalidRequest(RejectedError):
    """The request contradicts itself or lacks a field."""


class InvalidPayload(RejectedError):
    """The payload is not JSON as Moot takes it, or not of the channel's schema."""


class InvalidArguments(RejectedError):
    """The arguments of a read or watch name no view, or are not of the view's parameters; `view`, `argument` say which."""


class InvalidPatch(RejectedError):
    """The patch does not fit the document's state or class. The message names the operation and never shows what is there."""


class TooLarge(RejectedError):
    """A named size bound was exceeded."""


class UnknownSpace(RejectedError):
    """No such space is deployed."""


class UnknownChannel(RejectedError):
    """The space's code has no such handler."""


class UnknownRoute(RejectedError):
    """Nothing of the document takes a request of this method and path."""


class UnknownShard(RejectedError):
    """The cluster has no such shard."""


class UnknownNode(RejectedError):
    """The cluster has no such node."""


class UnknownDocument(RejectedError):
    """The document was never created."""


class UnknownBlob(RejectedError):
    """What the caller may see of the document shows no blob of this hash: whether it has one is not said."""


class DocumentDeleted(RejectedError):
    """The document was deleted; create makes a new one in a later epoch."""


class DocumentExists(RejectedError):
    """A document with this key exists already."""


class DocumentFrozen(RejectedError):
    """The document waits for an operator's repair; reads go on."""


class PermissionDenied(RejectedError):
    """The document's gate says no."""


class Unauthenticated(RejectedError):
    """No acceptable principal was given."""


class AskClosed(RejectedError):
    """Nothing of that id waits for an answer of this principal: it was answered, or its time is up, or it never did."""


class NotArmed(RejectedError):
    """What a leader found due is not armed, or not due, where the command ran: it changed nothing."""


class ConnectionUnchanged(RejectedError):
    """What a leader noted of a connection, that it came or went, the document knows already: the command changed nothing."""


class KeyReused(RejectedError):
    """The sequence or idempotency key was used before with a different payload."""


class PositionRewound(RejectedError):
    """The position belongs to another epoch; `current` is the document's position now."""


class PositionMoved(RejectedError):
    """The document is not at the position that the caller expects. `current` says where it is."""


class HistoryTrimmed(RejectedError):
    """The position is older than the earliest that is retained."""


class NoReplica(RejectedError):
    """The asked node holds no replica of the shard; `holders` names those who do, as it knows them."""


class InvalidMove(RejectedError):
    """The shard's replicas do not stand as the move says: the message tells how they do, and what can be done."""


class NodeDown(RejectedError):
    """The node looks dead to the one that was asked, so nothing was moved to it; `force` begins nevertheless."""


class NodeHolds(RejectedError):
    """Replicas are left on a node that should be removed: `shards` says of how many shards."""


class InvalidBundle(RejectedError):
    """The code may not be deployed. The message has code, file, line, reason and replacement of each finding."""


class AnsweredError(ClusterError):
    """The command was logged, ran, and was rolled back. Its sequence is consumed; the same answer comes for a repeat."""


class HandlerRefused(AnsweredError):
    """The document's code refused on purpose. `name` is the refusal's class, `arguments` its JSON fields."""


class HandlerFailed(AnsweredError):
    """A bug in the document's code. `error_id` finds the traceback in the space's errors."""


class BudgetExceeded(AnsweredError):
    """The handler used up its budget of steps, call depth or sizes."""


class Poisoned(AnsweredError):
    """The command ended nodes; an operator isolated it and its document is frozen."""


class OutcomeUnknown(ClusterError):
    """The command may have been applied. Read to find out, or repeat it under the same session and sequence."""

    applied = Applied.UNKNOWN


class OperatorError(ClusterError):
    """Somebody must look at the node; what is on its disk is left as it was found."""


class StorageError(OperatorError):
    """The storage engine failed."""


class StorageDamaged(StorageError):
    """What was read is not what was written: checksum mismatch, gap or corrupt file."""


class FormatTooNew(StorageError):
    """The data directory was written by a newer release; nothing was touched."""


class DirectoryInUse(StorageError):
    """Another process has the data directory open; nothing was touched."""


class SyncFailed(StorageError):
    """fsync failed. What is durable is unknown, so the node stops and never retries (ATC'20, fsync failures)."""


class LogLost(OperatorError):
    """This replica's log is shorter than what it acknowledged; it may not vote under this replica id again."""


class IdentityFenced(OperatorError):
    """Peers know another data directory under this node's name; this one is a new node and needs a new name."""


class NodeRemoved(OperatorError):
    """The node was removed from the cluster for good: neither its name nor its data directory is taken again."""


class ClockSkewed(OperatorError):
    """The node's clock is too far from that of the cluster it wants to join; `skew_ms` says how far it is ahead."""


class ReleaseMismatch(OperatorError):
    """The node's release and that of the cluster it wants to join speak no protocol in common."""


class ApplyHalted(OperatorError):
    """This shard's apply stopped on this node: a fault that is not an answer of a handler."""


class WrongCluster(OperatorError):
    """The peer or the data directory belongs to another cluster."""


class ConfigurationInvalid(OperatorError):
    """A setting is out of its range."""
