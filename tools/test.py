"""Evaluate a checkpoint: ``mmnorm test``."""

from mmnorm.commands.test import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
