"""Who computes: this process, the actors of a Ray cluster, or running ComfyUI servers. See `protocol`."""
