"""Who may do what with a module, in documents: for the enclave, its host and people, alike."""
