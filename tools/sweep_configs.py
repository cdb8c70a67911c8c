"""Build every config of the installed codebases with each norm: ``mmnorm check``."""

from mmnorm.commands.check import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
