"""The `smalle` command: `command_line` reads what is wanted; each sub-command is a module with `run(options)`."""
