"""Write scenes of handwritten digits: ``mmnorm digits``."""

from mmnorm.commands.digits import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
