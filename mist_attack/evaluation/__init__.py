"""What a protection is worth: what one sees of it, what a model makes of it, and what is left after a change."""

from .comparison import amplified as amplified
from .comparison import img2img as img2img
from .comparison import reconstruct as reconstruct
from .comparison import seen as seen
