"""The training loop and what it needs: optimiser, saved state, many processes."""
