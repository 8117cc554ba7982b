"""Files that a stranger may have written, read so that nothing of them runs and no size in them is trusted."""
