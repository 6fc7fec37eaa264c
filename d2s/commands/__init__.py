"""One module per command of the command line; each has `add_arguments(parser)` and `run(args)`. `d2s/cli.py` is the table of them."""
