"""``python -m dartblur``: the command ``dartblur``."""

from .cli import main

main()
