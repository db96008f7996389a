"""The key broker: secrets for trusted enclaves, wrapped to keys that their evidence binds."""
