"""A name -> files -> a model, and the same folder to and from a Hugging Face Hub."""
