"""What adapters do to a model that is lent, and undo on every exit. Knows no host."""
