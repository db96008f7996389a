"""The protocol of p11-kit's remoting: bytes to calls and back. No I/O, explicit limits.

Three versions of p11-kit's own are spoken (0.24: 0, 0.25: 1, 0.26: 2), and `OWN`, which is the
same without p11-kit's list of mechanisms and attributes: that is how our own clients speak.
"""
