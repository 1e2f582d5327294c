"""Storage on disk: run folders, checkpoints, weights, caches. Every file is written whole or not at all."""
