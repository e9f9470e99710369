"""Stage one: a frozen CLIP runs over a data set once, and its embeddings go to a cache."""
