"""`make evidence`: every figure that the documentation claims about protection, measured again from fixed seeds."""
