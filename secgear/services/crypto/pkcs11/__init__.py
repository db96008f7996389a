"""PKCS#11 as names, numbers and one table of calls: what every interface is made from."""
