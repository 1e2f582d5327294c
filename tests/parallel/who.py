"""Say who this process is: `python -m parallel.who`, launched with others."""

from rl_det import parallel


def main() -> None:
    """Print all ranks, which takes all processes."""
    parallel.join()
    ranks = parallel.of_all(parallel.rank())
    if parallel.is_main():
        print("ranks", ranks)


if __name__ == "__main__":
    main()
