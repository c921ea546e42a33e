"""The edge of a node: public gRPC over the Backend seam.

Reading order: `server.py` (what is listening), `calls.py` (what every handler does), `documents.py` with `unary.py` (single
operations), `session.py` (the fast way in), `codec.py` (messages to operations and back), `status.py` (errors), `limits.py`.
"""

from cluster.gateway.limits import Limits
from cluster.gateway.server import Gateway

__all__ = ["Gateway", "Limits"]
