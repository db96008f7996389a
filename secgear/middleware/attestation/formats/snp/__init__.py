"""AMD SEV-SNP: reports under VCEK or VLEK, and the launch digest they should carry."""
