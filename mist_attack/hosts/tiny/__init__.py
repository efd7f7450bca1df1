"""Small autoencoders that are distilled from large ones, as models of their own: layers, recognition, surrogate."""
