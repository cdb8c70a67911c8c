"""The subcommands of ``mmnorm``, a file each. ``mmnorm_command.py`` starts them, ``tools/`` has scripts."""
