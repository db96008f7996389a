"""The token, inside the enclave: slots, sessions, logins, objects, mechanisms."""
