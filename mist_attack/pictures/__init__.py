"""Picture files in and out: pixels, colours, and what is kept of the rest."""
