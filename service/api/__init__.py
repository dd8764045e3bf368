"""The HTTP interface: one noun a module."""
