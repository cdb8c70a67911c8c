"""Pretrain, finetune, evaluate on the digits: ``mmnorm pipeline``."""

from mmnorm.commands.pipeline import main
from mmnorm.errors import run

if __name__ == '__main__':
    run(main)
