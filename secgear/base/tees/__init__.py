"""One file a TEE. Each is found through the entry point group ``secgear.tees``."""
