"""Collecting evidence inside a guest."""
