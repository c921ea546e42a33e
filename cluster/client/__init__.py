"""The Python client of a cluster: `connect` is the way in.

`client.py` is what applications call, `connection.py` keeps the session's stream open, `wire.py` speaks the public protocol,
`watch.py` holds the view of a watched document, `editor.py` a text that is typed into (`editing.py` decides its characters),
`asks.py` hands out what documents ask, `handle.py` is what generated typed clients stand on, `failures.py` rebuilds the errors.
What is decided about numbering, resending and resuming is decided in `cluster.session.client`, which is pure.
"""

from cluster.client.asks import Ask, Asks
from cluster.client.client import Answer, Client, Document, PendingAnswer, connect
from cluster.client.editor import TextEditor
from cluster.client.failures import Refusal
from cluster.client.handle import Handle, TypedWatch
from cluster.client.watch import Change, Watch
from cluster.documents.state.blob import Blob, BlobReference
from cluster.session.client_events import Settings
from cluster.session.operations import Consistency

__all__ = [
    "Answer",
    "Ask",
    "Asks",
    "Blob",
    "BlobReference",
    "Change",
    "Client",
    "Consistency",
    "Document",
    "Handle",
    "PendingAnswer",
    "Refusal",
    "Settings",
    "TextEditor",
    "TypedWatch",
    "Watch",
    "connect",
]
