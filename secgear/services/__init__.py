"""Solutions that stand on the framework; each is a product of its own."""
