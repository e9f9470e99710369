"""What is done with a cache that is there: shown, checked, mended, exchanged."""
