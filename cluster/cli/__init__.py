"""The command line: `moot`. Start reading in app.py."""
