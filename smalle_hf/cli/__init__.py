"""What the sub-commands of `smalle` do, a module each with `run(options)`. `smalle_cli` reads the command line."""
