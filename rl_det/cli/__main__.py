"""`python -m rl_det.cli`, as a launcher starts the command."""

from rl_det.cli import main

if __name__ == "__main__":
    main()
