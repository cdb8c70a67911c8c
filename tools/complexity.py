"""What a config costs with each norm: ``mmnorm complexity``."""

from mmnorm.commands.complexity import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
