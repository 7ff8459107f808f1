"""Run the command line with ``python -m roomcast``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="roomcast")
