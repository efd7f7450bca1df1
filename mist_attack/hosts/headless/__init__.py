"""No host: a checkpoint from the disk, through diffusers."""
