"""TEST HOOK, off unless configured: documents of this node read something that their commands do not carry.

Where a payload contains the marker, the handler sees another text instead: what a handler would see that reads the
environment of its process. The other nodes see what was sent, so the document diverges, and a test can see it found and
healed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cluster.documents.channels import Channel
from cluster.documents.instance import DocumentInstance, Firing
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram
from cluster.documents.runtime import Invocation, Outcome, Settings
from cluster.ids import DocumentId, NodeId


def loader_for(node: NodeId, hook: str) -> BundleLoader:
    """The loader of a node. hook: `node,node:marker`, of the setting `divergence_hook`; empty for nodes as they should be."""
    victims, _, marker = hook.partition(":")
    return LeakingLoader(marker, lambda: node) if marker and node in victims.split(",") else BundleLoader()


class LeakingInstance(DocumentInstance):
    """A document whose handlers see `leak` where the command says `marker`."""

    __slots__ = ("leak", "marker")
    leak: Callable[[], str]
    marker: bytes

    def run_channel(self, channel: Channel, invocation: Invocation, firing: Firing | None = None) -> Outcome:
        """See DocumentInstance."""
        if self.marker in invocation.payload:
            invocation.payload = invocation.payload.replace(self.marker, self.leak().encode())
        return super().run_channel(channel, invocation, firing)


class LeakingProgram(DocumentProgram):
    """Makes such documents of any class."""

    __slots__ = ("leak", "marker")
    leak: Callable[[], str]
    marker: bytes

    def new(self, document: DocumentId) -> LeakingInstance:
        """See runtime.Program."""
        instance = LeakingInstance(self, document)
        instance.marker, instance.leak = self.marker, self.leak
        return instance

    def load(self, document: DocumentId, state: bytes) -> LeakingInstance:
        """See runtime.Program."""
        instance = self.new(document)
        instance.restore(state)
        return instance


class LeakingLoader(BundleLoader):
    """Compiles what authors write, with the leak built in. leak: gives the text to be seen now, one that JSON does not
    escape.
    """

    __slots__ = ("_leak", "_marker")

    def __init__(self, marker: str, leak: Callable[[], str], settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._marker, self._leak = marker.encode(), leak

    def load(self, bundle: bytes, origins: Mapping[str, str] = MappingProxyType({})) -> LeakingProgram:
        """See runtime.Loader. Raises InvalidBundle or TooLarge."""
        sound = super().load(bundle, origins)
        program = LeakingProgram(
            sound.code_hash, sound.declaration, sound.settings, sound.namespace, sound.owner, sound.places, sound.files
        )
        program.marker, program.leak = self._marker, self._leak
        return program
