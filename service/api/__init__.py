"""The HTTP interface: one noun a module."""

API = "/api/v1"
"""Where it begins."""
