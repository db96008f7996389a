"""REST: HTTP/1.1 that ends inside the enclave; one table of routes, with Vault's transit paths.

What comes in has the host's ciphertext around it and nothing else: see `secgear crypto http`.
Everything a request does is done by calls of the table in `secgear.services.crypto.pkcs11.calls`.
"""
