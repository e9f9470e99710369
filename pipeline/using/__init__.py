"""A fitted adapter put to use: a model folder that stands alone, and what it says of new images."""
