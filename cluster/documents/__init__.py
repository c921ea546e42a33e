"""The deterministic runtime of documents: from a bundle's bytes to outcomes, state and views.

    runtime.py      the seam: Program, Instance, Projection, Loader, Outcome; a shard knows nothing else of this package
    loader.py       Loader: bundle bytes in, program out, or every reason why not
      bundle.py     canonical bytes and their hash
      refusals.py   what may not be deployed, found in the source; forbidden.py has the tables
      importer.py   executes a bundle's modules; facades.py is what they may import
      lasting.py    what modules and classes hold that could outlive a command
    program.py      Program: a class statement becomes channels, fields, policies and views; declaration.py is what it gives
      channels.py   what a class offers, with its JSON Schema
      declare.py    what authors write: Document, on, read, field
      channels.py   handlers and what they are given
    instance.py     Instance: one command, atomic
      context.py    Command and the random stream
      connections.py  whose connections a document knows
      armed.py      alarms and asks: what time or an answer will run; maybe.py
      blobs.py      which bytes of files a document keeps, and who is given them
      payload.py    JSON, strict in, canonical out
      views.py      what viewers see, whole and by patches
        parts.py rows.py  fields, views and tables as one viewer sees them
        sight.py    fields that are hidden inside of records
        arguments.py  what a viewer asks of views and windows
    meter.py        the budget of the running command
      instrument.py rewrites author code so that it is counted
      library.py    the builtins that it sees; operators.py, methods.py, textual.py, iteration.py, lazy.py, ordered.py
      sizes.py      how large and how deep a value is, before the interpreter looks
    state/          declared types, tracked writes, undo, patches

Invariant: an outcome is a function of (code, state before, invocation), the same on every supported Python and in every
process. Author code is counted, not confined: it is trusted not to attack the interpreter itself.
"""
