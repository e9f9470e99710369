"""What an adapter did, image by image, from cached tensors: what `mma explain` runs."""
