"""``python -m mmnorm``: the command ``mmnorm`` of this Python."""

from mmnorm_command import main

if __name__ == '__main__':
    main()
