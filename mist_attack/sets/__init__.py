"""Pictures of one style together, against a LoRA that is fine-tuned on all of them."""
