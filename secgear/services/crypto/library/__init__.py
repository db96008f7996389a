"""A PKCS#11 library of our own: small C that only marshals, made from the table of calls."""
