"""Middleware layer: what stands between the base layer and the services."""
