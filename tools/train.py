"""Train any config of mmseg, mmdet or mmpretrain: ``mmnorm train``."""

from mmnorm.commands.train import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
