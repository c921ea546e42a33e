"""What `moot new` writes: for each template a document type and its test.

`Template` and `template` stand for the chosen name.
"""
