"""Convert checkpoints: ``mmnorm convert``."""

from mmnorm.commands.convert import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
