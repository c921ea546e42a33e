"""The pure decision: which node should an operation go to. See `router.py`."""
