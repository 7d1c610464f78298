"""`python -m k25`, which is also what torchrun starts: `torchrun --nproc-per-node 8 -m k25 pretrain ...`."""

from k25.cli.main import run

if __name__ == "__main__":
    run()
