"""The edge of a node: public gRPC, and HTTP for documents that answer requests, over the Backend seam.

Reading order: `server.py` (what is listening), `calls.py` (what every handler does), `documents.py` with `unary.py` (single
operations), `session.py` (the fast way in), `codec.py` (messages to operations and back), `status.py` (errors), `limits.py`. Of
HTTP: `http_server.py` (what is listening), `guard.py` (whom it answers), `http.py` (requests to operations and back),
`http_errors.py`.
"""

from cluster.gateway.limits import Limits
from cluster.gateway.server import Gateway

__all__ = ["Gateway", "Limits"]
