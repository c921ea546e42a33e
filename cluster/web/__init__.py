"""`moot dev`: one process in which an author tries a document type, behind a page on loopback.

    workshop.py   a node in memory, the code in it, and the principals who sit before it; no sockets, no event loop
    code.py       the author's file as it is deployed: each time it is saved, a deployment of its own
    server.py     the page over HTTP: JSON calls, and Server-Sent Events for what changes
    requests.py   the documents' own HTTP handlers, as a node serves them
    static/       the page: one HTML, one JS, one CSS file

The node is the one of `simulate()`, driven by the clock of the machine: what runs is the pump of a real node, on memory. It
keeps nothing when it ends, and it listens on 127.0.0.1 only, where anybody may say who they are.
"""
