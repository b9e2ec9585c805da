"""From a dataset directory to an adapter directory: a LoRA in PEFT's format, and the record of how it was made."""
