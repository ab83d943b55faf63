"""Nutanix AHV: the only place that knows Prism's JSON."""
