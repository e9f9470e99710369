"""`tiny`: a small CLIP that the package carries, so that every command works with no download.

open_clip's own model (a ResNet of one block per stage at 64 pixels, a text tower of two layers), trained by
`train.py` beside it on captioned clip art: float16, 7.5 MB, 2.6 MB compressed. Made for trying and testing; no number
that comes from it says anything about a method.
"""

from pathlib import Path

TINY = Path(__file__).parent
MODEL = f"local-dir:{TINY}"  # the name under which open_clip loads it: model, transforms and tokenizer
