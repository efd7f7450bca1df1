"""Running ComfyUI servers that have our nodes, as runners."""
