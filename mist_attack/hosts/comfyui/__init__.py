"""ComfyUI: the model that a graph holds."""
