"""``python -m secgear.cli``."""

from secgear.cli import main

main()
