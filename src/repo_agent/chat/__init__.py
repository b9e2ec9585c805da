"""The one renderer: conversations to text, token ids and loss mask, for training and for running alike."""
