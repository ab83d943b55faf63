"""Backup data mover for Nutanix AHV."""

__version__ = "0.1.0"
