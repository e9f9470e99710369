"""Stage two: adapters are fitted and scored on the tensors of a cache."""
