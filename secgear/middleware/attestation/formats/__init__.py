"""One room for each format of evidence: parse, authenticate, assess, claim."""
