"""The papers' experiments: ``mmnorm experiments``."""

from mmnorm.commands.experiments import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
