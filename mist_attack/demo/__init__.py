"""The demo models, and the pictures and the contact sheet of `make demo`."""
