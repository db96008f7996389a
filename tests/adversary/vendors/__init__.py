"""Fake vendors: roots that issue anything, genuine in form and hostile in content."""
