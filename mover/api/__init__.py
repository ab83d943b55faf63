"""The REST face: metrics and health."""
