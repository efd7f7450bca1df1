"""Many pictures: which ones, under which names, what is done already, and what became of each."""
