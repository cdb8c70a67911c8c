"""Stylize one image: ``mmnorm stylize``."""

from mmnorm.commands.stylize import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
