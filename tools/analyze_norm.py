"""See what SN, EN and ILM have learned: ``mmnorm analyze``."""

from mmnorm.commands.analyze import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
