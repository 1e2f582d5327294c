"""What is kept on disk: run folders, checkpoints, weights, caches; every file is written whole or not at all."""
