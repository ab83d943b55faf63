"""Measurements that need a machine of their own; see README.md."""
