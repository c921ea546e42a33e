"""Generated from proto/cluster/v1 by proto/generate.py. Do not edit."""
