"""Fixtures that every test may ask for; each room's own stand in tests/support."""

pytest_plugins = ("tests.support.servers",)
