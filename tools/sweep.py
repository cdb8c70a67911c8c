"""Run sets of short trainings by a plan, sum up, draw: ``mmnorm sweep``."""

from mmnorm.commands.sweep import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
