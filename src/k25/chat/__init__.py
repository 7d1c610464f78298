"""How the model is spoken to: messages, tokenizer, template, parsers. Needs no torch."""
